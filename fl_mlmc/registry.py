"""Objects as text: `MLMC(TopK(fraction=0.01))` in TOML, logs, plots and Python alike.

The text is a Python call of a known name; arguments are literals or further calls. Nothing is evaluated. Texts come
from devices too, so one that is no such call gives ValueError, whatever it is, and before it costs time.
"""

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

LONGEST_TEXT = 2000
"""Characters that a text may have."""
DEEPEST_TEXT = 40
"""Nodes of its syntax tree, from the whole down to an innermost value: a dozen calls within each other have as many."""


@dataclass(frozen=True)
class Call:
    """A name and its arguments, as read from text; nested calls are already built."""

    name: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]


def parse_call(text: str, known: Mapping[str, Callable[..., Any]], what: str, given: int = 0) -> Call:
    """Read `text` as a call of one of `known`; a bare name is a call without arguments.

    `what` names the kind of thing in errors. The first `given` parameters are not the text's to set: the caller
    passes them. ValueError on text that is no such call, on unknown names and on unknown options.
    """
    return _read(_tree(text, what), known, what, given)


def build(text: str, known: Mapping[str, Callable[..., Any]], what: str) -> Any:
    """The object that `text` describes: `parse_call`, then the call. ValueError as there, and if the call fails."""
    return _made(parse_call(text, known, what), known, what)


def _tree(text: str, what: str) -> ast.expr:
    """The syntax tree of an expression that is neither long nor deep."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{what} has a text of {len(text)} characters, {LONGEST_TEXT} are allowed")
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
        raise ValueError(f"{what} {text!r} is not of the form Name(option=value)") from error
    depth, layer = 0, [cast(ast.AST, node)]
    while layer:
        depth, layer = depth + 1, [child for parent in layer for child in ast.iter_child_nodes(parent)]
    if depth > DEEPEST_TEXT:
        raise ValueError(f"{what} {text[:40]!r}… is nested {depth} deep, {DEEPEST_TEXT} are allowed")
    return node


def _made(call: Call, known: Mapping[str, Callable[..., Any]], what: str) -> Any:
    try:
        return known[call.name](*call.args, **call.options)
    except ValueError:
        raise
    except Exception as error:  # an option of a kind that a part does not count on
        raise ValueError(
            f"{what} {call.name} cannot be made of these options: {type(error).__name__}: {error}"
        ) from error


def _read(node: ast.expr, known: Mapping[str, Callable[..., Any]], what: str, given: int = 0) -> Call:
    if isinstance(node, ast.Name):
        node = ast.Call(node, [], [])
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"{what} {ast.unparse(node)!r} is not of the form Name(option=value)")
    name = node.func.id
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(sorted(known))}{_hint(name, known)}")
    allowed = list(inspect.signature(known[name]).parameters)[given:]
    for keyword in node.keywords:
        if keyword.arg not in allowed:
            listed = ", ".join(allowed) or "none"
            hint = _hint(str(keyword.arg), allowed)
            raise ValueError(f"{what} {name} has no option {keyword.arg!r}; its options: {listed}{hint}")
    if len(node.args) > len(allowed):
        raise ValueError(f"{what} {name} takes at most {len(allowed)} arguments, got {len(node.args)}")
    args = tuple(_value(argument, known, what) for argument in node.args)
    options = {str(keyword.arg): _value(keyword.value, known, what) for keyword in node.keywords}
    try:
        inspect.signature(known[name]).bind(*[None] * given, *args, **options)
    except TypeError as error:
        raise ValueError(f"{what} {ast.unparse(node)}: {error}; its options: {', '.join(allowed)}") from error
    return Call(name, args, options)


def _hint(name: str, known: Iterable[str]) -> str:
    """Which known name is meant, if one is near."""
    folded = {other.casefold(): other for other in known}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=0.75)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


def _value(node: ast.expr, known: Mapping[str, Callable[..., Any]], what: str) -> Any:
    if isinstance(node, ast.Call | ast.Name):
        return _made(_read(node, known, what), known, what)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:  # TypeError: a list as the key of a dict
        raise ValueError(f"{what} option {ast.unparse(node)!r} is not a number, text or {what}") from error
