"""Which small faults in a module its tests notice.

    python benchmarks/mutants.py MODULE.py TEST… [-m MARKERS] [--count N]

A mutant is the module with one place changed: a comparison shifted by its border, a condition negated, an operator
exchanged, a number one more or one less, two arguments swapped, a statement left out. Each of `count` mutants, drawn
evenly over the module, is run against the tests until one fails. The survivors are printed: each is a line that could
be wrong unseen, or one whose change changes nothing. Hypothesis draws the same examples for every mutant.
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


def mutants(tree: ast.Module) -> list[tuple[str, ast.Module]]:
    """Every mutant with its name: line, function, kind of change, what stood there, what stands there now."""
    found = []
    for path, node, function in _places(tree, (), "module"):
        for kind, changed in changes(node):
            mutant = copy.deepcopy(tree)
            _put(mutant, path, changed if changed is not None else ast.Pass())
            before, after = (_line(part) for part in (node, changed or ast.Pass()))
            name = f"{getattr(node, 'lineno', 0):4d} {function} {kind}: {before} → {after}"
            found.append((name, ast.fix_missing_locations(mutant)))
    return found


def _places(node: ast.AST, path: tuple[tuple[str, int | None], ...], function: str) -> Iterator[tuple]:
    yield path, node, function
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
                yield from _places(child, (*path, (field, number)), function)


def _put(node: ast.AST, path: tuple[tuple[str, int | None], ...], new: ast.AST) -> None:
    *way, (field, number) = path
    for step, index in way:
        node = getattr(node, step) if index is None else getattr(node, step)[index]
    if number is None:
        setattr(node, field, new)
    else:
        getattr(node, field)[number] = new


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _line(node: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).partition("\n")[0]
    return text if len(text) < 70 else f"{text[:67]}…"


class Instead:
    """An import hook: the module's name gives the mutant."""

    def __init__(self, module: str, path: Path, tree: ast.Module) -> None:
        self._module, self._path, self._tree = module, path, tree

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        return importlib.util.spec_from_file_location(name, self._path, loader=self) if name == self._module else None

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: object) -> None:
        exec(compile(self._tree, str(self._path), "exec"), vars(module))


def outcome(module: str, path: Path, tree: ast.Module, options: list[str], seconds: float) -> str:
    """ "killed", "too slow" or "survived", from a child that has the libraries loaded already."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.meta_path.insert(0, Instead(module, path, tree))
        os._exit(int(pytest.main(options) != 0))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return "killed" if status else "survived"
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too slow"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("-m", default="not slow", metavar="MARKERS")
    parser.add_argument("--count", type=int, default=50)
    arguments = parser.parse_args()
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True)
    hypothesis.settings.load_profile("mutants")
    for library in LIBRARIES:
        importlib.import_module(library)
    module = ".".join(arguments.module.with_suffix("").parts)
    tree = ast.parse(arguments.module.read_text())
    options = [*arguments.tests, "-q", "-x", "-m", arguments.m, "-p", "no:cacheprovider", "-p", "no:xdist"]
    start = time.monotonic()
    if outcome(module, arguments.module, tree, options, 3600.0) != "survived":
        sys.exit("the tests fail without any change")
    clean = time.monotonic() - start
    found = mutants(tree)
    chosen = [found[number * len(found) // arguments.count] for number in range(min(arguments.count, len(found)))]
    results = []
    for name, mutant in chosen:
        results.append(outcome(module, arguments.module, mutant, options, 60 + 5 * clean))
        print(f"{results[-1]:8s} {name}", flush=True)
    killed = sum(result != "survived" for result in results)
    print(f"{module}: {killed} of {len(chosen)} mutants killed ({len(found)} in all), {clean:.0f} s a clean run")


if __name__ == "__main__":
    main()
