"""What private runs cost: counted by a ledger that survives whatever ends them."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_mlmc.aggregation import Average, Folding, Ledger, Private
from fl_mlmc.aggregation import ledger as room
from fl_mlmc.aggregation.ledger import LedgerError, Mechanism, check_ledger, epsilon

PLAIN = Mechanism(noise=2.0, cohort_size=10, num_clients=1000)
NOISIER = Mechanism(noise=4.0, cohort_size=10, num_clients=1000)


def filled(path: Path, count: int = 3) -> Path:
    ledger = Ledger(path)
    for server_round in range(1, count + 1):
        ledger.add(server_round, PLAIN)
    return path


def test_a_ledger_opened_again_goes_on_counting(tmp_path: Path) -> None:
    path = filled(tmp_path / "releases.jsonl", 2)
    again = Ledger(path)
    assert len(again) == 2
    again.add(2, NOISIER)  # the same round once more, after a resume
    assert len(Ledger(path)) == len(again) == 3
    numbers = [line.split(",")[0] for line in path.read_text().splitlines()]
    assert numbers == ['{"number": 1', '{"number": 2', '{"number": 3']


def test_epsilon_is_that_of_all_releases_whatever_their_kinds(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    ledger = Ledger(tmp_path / "releases.jsonl")
    assert ledger.epsilon(1e-5) == 0.0
    for _ in range(5):
        ledger.add(1, PLAIN)
    assert ledger.epsilon(1e-5) == epsilon({PLAIN: 5}, 1e-5)
    ledger.add(6, NOISIER)
    mixed = ledger.epsilon(1e-5)
    assert epsilon({PLAIN: 5}, 1e-5) < mixed < epsilon({PLAIN: 6}, 1e-5)
    assert Ledger(tmp_path / "releases.jsonl").epsilon(1e-5) == mixed


@pytest.mark.parametrize("torn", [b"{", b'{"number": 4, "round": 4', b"\0\0\0"])
def test_a_line_that_a_killed_process_left_is_cut_away(tmp_path: Path, torn: bytes) -> None:
    path = filled(tmp_path / "releases.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    check_ledger(path, 3)
    ledger = Ledger(path)
    assert (len(ledger), path.read_bytes()) == (3, whole)
    ledger.add(4, PLAIN)
    assert len(Ledger(path)) == 4


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda text: text.replace('"number": 2', '"number": 3'), 2),
        (lambda text: text.split("\n", 1)[1], 1),
        (lambda text: text.replace('"noise": 2.0', '"noise": "2"', 1), 1),
        (lambda text: text.replace('"noise": 2.0', '"noise": -2.0', 1), 1),
        (lambda text: text.replace('"cohort_size": 10', '"cohort_size": 1001', 1), 1),
        (lambda text: text.replace('"round"', '"wound"', 1), 1),
        (lambda text: text.replace("{", "[", 1), 1),
        (lambda text: "\n" + text, 1),
    ],
)
def test_a_damaged_ledger_is_refused(tmp_path: Path, damage: Callable[[str], str], line: int) -> None:
    path = filled(tmp_path / "releases.jsonl")
    path.write_text(damage(path.read_text()))
    for read in (Ledger, lambda path: check_ledger(path, 0)):
        with pytest.raises(LedgerError, match=f"line {line} of .*expected release {line}: the file is damaged"):
            read(path)


def test_a_run_goes_on_only_by_a_ledger_that_holds_what_its_checkpoint_counted(tmp_path: Path) -> None:
    path = filled(tmp_path / "releases.jsonl")
    check_ledger(path, 3)
    check_ledger(path, 0)
    with pytest.raises(LedgerError, match="holds 3 releases, the run's checkpoint counted 4"):
        check_ledger(path, 4)
    with pytest.raises(LedgerError, match="counts no releases, it is older than"):
        check_ledger(path, None)
    path.unlink()
    with pytest.raises(LedgerError, match=r"a private run has no .*, the ledger of its releases"):
        check_ledger(path, 0)


def test_what_the_disk_refuses_is_not_counted_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path / "releases.jsonl")
    whole, ledger = path.read_bytes(), Ledger(path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(room.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            ledger.add(4, PLAIN)
    assert (len(ledger), path.read_bytes()) == (3, whole)


def test_no_noise_is_drawn_before_its_line_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = Private(clip=1.0, noise=2.0, delta=1e-5, cohort_size=3, num_clients=6)
    ledger = Ledger(tmp_path / "releases.jsonl")
    folding = Folding(Average(), 4, private, ledger)
    folding.meet([])
    synced: list[int] = []
    monkeypatch.setattr(room.os, "fsync", lambda handle: synced.append(len((tmp_path / "releases.jsonl").read_text())))

    def drawn() -> None:
        assert synced
        assert synced[-1] == len((tmp_path / "releases.jsonl").read_text()) > 0
        raise KeyboardInterrupt

    monkeypatch.setattr("fl_mlmc.aggregation.private.secret_generator", drawn)
    with pytest.raises(KeyboardInterrupt):
        folding.start(7).result()
    assert '"round": 7' in (tmp_path / "releases.jsonl").read_text()
    assert len(Ledger(tmp_path / "releases.jsonl")) == 1


def test_a_private_run_without_a_ledger_is_refused() -> None:
    with pytest.raises(ValueError, match="give the ledger of its releases"):
        Folding(Average(), 4, Private(1.0, 2.0, 1e-5, 3, 6))


def test_epsilon_of_all_clients_is_that_of_the_gaussian_mechanism() -> None:
    pytest.importorskip("dp_accounting")
    noise, delta, rounds = 8.0, 1e-5, 10
    # RDP of a Gaussian of sensitivity 2 and deviation `noise`, composed: 2 α rounds / noise²; Mironov 2017, Prop. 3.
    crude = min(2 * a * rounds / noise**2 + math.log(1 / delta) / (a - 1) for a in [1 + x / 10 for x in range(1, 2000)])
    assert 0.7 * crude < epsilon({Mechanism(noise, 5, 5): rounds}, delta) <= crude


def test_epsilon_grows_with_rounds_and_shrinks_with_noise_and_sampling() -> None:
    pytest.importorskip("dp_accounting")
    base = epsilon({PLAIN: 10}, 1e-5)
    assert epsilon({PLAIN: 20}, 1e-5) > base > epsilon({NOISIER: 10}, 1e-5)
    assert epsilon({Mechanism(2.0, 100, 1000): 10}, 1e-5) > base


def test_without_the_accountant_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ValueError, match=r"pip install 'fl-mlmc\[privacy\]'"):
        epsilon({Mechanism(1.0, 1, 1): 1}, 1e-5)
