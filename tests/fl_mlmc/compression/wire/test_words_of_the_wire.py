"""What the modules of the wire format say of themselves: examples that run, a docstring for every public name."""

import doctest
import importlib
import inspect
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


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_says_what_it_is(module: ModuleType) -> None:
    own = [thing for thing in vars(module).values() if getattr(thing, "__module__", None) == module.__name__]
    methods = [method for thing in own if inspect.isclass(thing) for method in vars(thing).values()]
    silent = [
        thing
        for thing in (module, *own, *methods)
        if not _name(thing).startswith("_") and callable(_function(thing)) and not _function(thing).__doc__
    ]
    assert not silent


def _function(thing: object) -> object:
    return thing.fget if isinstance(thing, property) else thing


def _name(thing: object) -> str:
    return getattr(_function(thing), "__name__", "_")
