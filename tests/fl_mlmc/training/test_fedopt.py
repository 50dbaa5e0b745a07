"""The server optimizers against the paper's recurrences, and in the limits that it names."""

import numpy as np
import pytest
import torch

from fl_mlmc.aggregation import Mean, ServerOptimizer

UPDATES = [[0.5, -2.0], [0.1, 1.0], [-0.3, 1e-4]]


def stepped(text: str, rate: float) -> np.ndarray:
    """The model after every step from zero, (steps, 2)."""
    optimizer, vector, ones = ServerOptimizer(text, rate, 2), torch.zeros(2), torch.ones(2, dtype=torch.int32)
    seen = []
    for update in UPDATES:
        vector = optimizer.step(vector, Mean(torch.tensor(update), ones))
        seen.append(vector.numpy())
    return np.array(seen)


def printed(kind: str, rate: float, b1: float, b2: float, tau: float) -> np.ndarray:
    """Algorithm 2 of arXiv 2003.00295 in float64."""
    x, m, v, seen = np.zeros(2), np.zeros(2), np.full(2, tau**2), []
    for update in map(np.array, UPDATES):
        m = b1 * m + (1 - b1) * update
        if kind == "fedadagrad":
            v = v + update**2
        elif kind == "fedyogi":
            v = v - (1 - b2) * update**2 * np.sign(v - update**2)
        else:
            v = b2 * v + (1 - b2) * update**2
        x = x + rate * m / (np.sqrt(v) + tau)
        seen.append(x)
    return np.array(seen)


@pytest.mark.parametrize(("kind", "b1"), [("fedadagrad", 0.0), ("fedadam", 0.9), ("fedyogi", 0.9)])
def test_steps_are_those_of_algorithm_2(kind: str, b1: float) -> None:
    np.testing.assert_allclose(stepped(kind, 0.1), printed(kind, 0.1, b1, 0.99, 1e-3), rtol=2e-6)
    options = "momentum=0.5, tau=0.1" + (", second_momentum=0.8" if b1 else "")
    np.testing.assert_allclose(stepped(f"{kind}({options})", 0.1), printed(kind, 0.1, 0.5, 0.8, 0.1), rtol=2e-6)


@pytest.mark.parametrize("kind", ["fedadagrad", "fedadam", "fedyogi"])
def test_far_below_tau_a_step_is_fedavgs(kind: str) -> None:
    tau = 1e4
    options = f"momentum=0.0, tau={tau}" + (", second_momentum=0.9999999" if kind == "fedadam" else "")
    np.testing.assert_allclose(stepped(f"{kind}({options})", 2 * tau), np.cumsum(UPDATES, axis=0), rtol=1e-4)


def test_fedavgm_without_momentum_is_plain_averaging_and_else_sgd_with_momentum() -> None:
    np.testing.assert_array_equal(stepped("fedavgm(momentum=0.0)", 1.0), stepped("sgd", 1.0))
    np.testing.assert_array_equal(stepped("fedavgm", 0.5), stepped("sgd(momentum=0.9)", 0.5))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fedadam(momentum=1.0)", r"FedAdam's momentum lies in \[0, 1\), got 1.0"),
        ("fedyogi(second_momentum=-0.1)", r"FedYogi's second_momentum lies in \[0, 1\), got -0.1"),
        ("fedadagrad(tau=0)", "FedAdagrad's tau is above 0, got 0"),
    ],
)
def test_options_out_of_range_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerOptimizer(text, 0.1, 2)
