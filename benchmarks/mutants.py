"""Which small faults in a module, or in all of a folder, its tests notice.

    python benchmarks/mutants.py MODULE.py TEST… [--count N] [-m MARKERS]…

A mutant is the module with one place changed: a comparison shifted by its border, a condition negated, an operator
exchanged, a number one more or one less, two arguments swapped, a statement left out. Each of `count` mutants, drawn
evenly, is run against the tests until one fails. What survives them is run against those of the next `-m`: by default
first the tests of `make test`, then the long ones. A survivor is a line that could be wrong unseen, or a change that
changes nothing. Hypothesis draws the same examples for every mutant.
"""

import argparse
import ast
import copy
import importlib.util
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

SHIFTED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
           ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}  # fmt: skip
EXCHANGED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
             ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
             ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And}  # fmt: skip
LIBRARIES = ("numpy", "torch", "numba", "sklearn", "pandas", "pydantic", "hypothesis.stateful")
MEMORY = 8 << 30


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """What can go wrong at `node`: a name for the change, and what stands there instead; None: nothing does."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in SHIFTED:
            yield "comparison", _with(node, ops=[SHIFTED[type(op)]()])
        case ast.Compare(ops=[first, *rest]) if rest and type(first) in SHIFTED:
            yield "comparison", _with(node, ops=[SHIFTED[type(first)](), *rest])
        case ast.BoolOp(op=op):
            yield "operator", _with(node, op=EXCHANGED[type(op)]())
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in EXCHANGED:
            yield "operator", _with(node, op=EXCHANGED[type(op)]())
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield "sign", operand
        case ast.Constant(value=bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield "constant", ast.Constant(value + 1)
            yield "constant", ast.Constant(value - 1)
        case ast.Constant(value=float() as value):
            yield "constant", ast.Constant(value * 1.25 if value else 1.0)
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            yield "condition", _with(node, test=ast.UnaryOp(ast.Not(), test))
        case ast.Call(args=[first, second, *rest]) if not isinstance(first, ast.Starred):
            yield "arguments", _with(node, args=[second, first, *rest])
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield "statement", None


Place = tuple[tuple[str, int | None], ...]
"""The way from the module to a node: field and, in lists, number."""


def mutants(tree: ast.Module) -> Iterator[tuple[str, Place, ast.AST]]:
    """Every mutant: its name (line, function, kind of change, what stood there, what stands there now), where, what."""
    for place, node, function in _places(tree, (), "module"):
        for kind, changed in changes(node):
            new = changed or ast.Pass()
            yield f"{getattr(node, 'lineno', 0):4d} {function} {kind}: {_line(node)} → {_line(new)}", place, new


def mutated(tree: ast.Module, place: Place, new: ast.AST) -> ast.Module:
    mutant = copy.deepcopy(tree)
    node: ast.AST = mutant
    *way, (field, number) = place
    for step, index in way:
        node = getattr(node, step) if index is None else getattr(node, step)[index]
    if number is None:
        setattr(node, field, new)
    else:
        getattr(node, field)[number] = new
    return ast.fix_missing_locations(mutant)


def _places(node: ast.AST, place: Place, function: str) -> Iterator[tuple[Place, ast.AST, str]]:
    yield place, node, function
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = node.name if function == "module" else f"{function}.{node.name}"
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params") or isinstance(value, ast.JoinedStr):
            continue
        if isinstance(node, ast.Raise):  # what an error says is another matter
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for number, child in children:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield from _places(child, (*place, (field, number)), function)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _line(node: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).partition("\n")[0]
    return text if len(text) < 70 else f"{text[:67]}…"


class Instead:
    """An import hook: the module at `path` is the mutant."""

    def __init__(self, path: Path, mutant: ast.Module) -> None:
        self._path, self._mutant = path, mutant
        self._is_package = path.name == "__init__.py"
        self._name = ".".join(path.parent.parts if self._is_package else path.with_suffix("").parts)

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name != self._name:
            return None
        inside = [str(self._path.parent)] if self._is_package else None
        return importlib.util.spec_from_file_location(name, self._path, loader=self, submodule_search_locations=inside)

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: object) -> None:
        exec(compile(self._mutant, str(self._path), "exec"), vars(module))


def passes(path: Path, mutant: ast.Module, options: list[str], seconds: float) -> bool:
    """Whether the tests pass, and in time; in a child that has the libraries loaded already."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.meta_path.insert(0, Instead(path, mutant))
        os._exit(int(pytest.main(options) not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("-m", action="append", metavar="MARKERS")
    parser.add_argument("--count", type=int, default=50)
    arguments = parser.parse_args()
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True)
    hypothesis.settings.load_profile("mutants")
    for library in LIBRARIES:
        importlib.import_module(library)
    paths = sorted(arguments.module.rglob("*.py")) if arguments.module.is_dir() else [arguments.module]
    trees = {path: ast.parse(path.read_text()) for path in paths}
    suites = arguments.m or ["not slow and not long", "long and not slow"]
    options = [
        [*arguments.tests, "-q", "-x", "-m", suite, "-p", "no:cacheprovider", "-p", "no:xdist"] for suite in suites
    ]
    limits = []
    for suite, words in zip(suites, options, strict=True):
        start = time.monotonic()
        if not passes(paths[0], trees[paths[0]], words, 3600.0):
            sys.exit(f"the tests of {suite!r} fail without any change")
        limits.append(60 + 5 * (time.monotonic() - start))
    found = [(path, *mutant) for path, tree in trees.items() for mutant in mutants(tree)]
    count = min(arguments.count, len(found))
    killed = dict.fromkeys(suites, 0)
    for path, name, place, new in (found[number * len(found) // count] for number in range(count)):
        killers = (
            suite
            for suite, words, limit in zip(suites, options, limits, strict=True)
            if not passes(path, mutated(trees[path], place, new), words, limit)
        )
        killer = next(killers, None)
        if killer is not None:
            killed[killer] += 1
        print(f"{'survived' if killer is None else f'killed by {killer!r}'}: {path.name} {name}", flush=True)
    by = ", ".join(f"{number} by {suite!r}" for suite, number in killed.items())
    print(f"{arguments.module}: of {count} mutants ({len(found)} in all) are killed {by}")


if __name__ == "__main__":
    main()
