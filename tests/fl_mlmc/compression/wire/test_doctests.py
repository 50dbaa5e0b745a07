"""The examples in the docstrings of the wire format are run."""

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

from fl_mlmc.compression import blocks, wire

MODULES = [
    blocks,
    wire,
    *(importlib.import_module(found.name) for found in pkgutil.walk_packages(wire.__path__, f"{wire.__name__}.")),
]
MODES = [module for module in MODULES if (module.__doc__ or "").lstrip().startswith("Mode ")]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_examples_of_a_module_are_true(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_every_mode_of_a_symbol_stream_has_a_file_with_an_example_of_encode_and_decode() -> None:
    names = {module.__name__.rpartition(".")[2] for module in MODES}
    assert names == {
        "packed", "deflated", "positions", "split", "planes", "low_bits", "plain", "rans", "trits", "lanes"
    }  # fmt: skip
    for module in MODES:
        name, text = module.__name__.rpartition(".")[2], module.__doc__ or ""
        assert {f"encode_{name}", f"decode_{name}"} <= set(vars(module))
        assert f">>> coded = encode_{name}(" in text
        assert f"decode_{name}(" in text
