"""FedProx: what a client minimises, drawn back to the model that it was sent.

f_i(x) + (μ/2) ‖x − x_server‖². Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, MLSys 2020, arXiv 1812.06127, equation 2.
μ = 0 is plain local training, and so is a single step: there x = x_server.
"""

from collections.abc import Iterable

from torch import Tensor


class Proximal:
    """The proximal term of `parameters` as they are now, which is as the server sent them.

    `strength` is μ, at least 0. The reported loss stays that of the examples: the term is in the gradient alone.
    """

    def __init__(self, parameters: Iterable[Tensor], strength: float) -> None:
        self._strength = strength
        self._sent = [(each, each.detach().clone()) for each in parameters] if strength else []

    def add_gradient(self) -> None:
        """Add μ (x − x_server) to the gradient of every parameter that has one; the others did not move."""
        for parameter, sent in self._sent:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - sent, alpha=self._strength)
