"""Objects as text: `MLMC(TopK(fraction=0.01))` in TOML, logs, plots and Python alike.

The text is a Python call of a known name; arguments are literals or further calls. Nothing is evaluated. Texts come
from devices too, so one that is no such call gives ValueError, whatever it is, and before it costs time.

A call within another is built first. Where a parameter is annotated `Call`, it is handed over as it was read: a model
of a model cannot be built before it knows the data.

Where the caller lets it, a name may be one of the user's own: `MLMC(ladder.py:Stretches(length=10))` (`own`).
"""

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, cast

from . import own
from .own import LONGEST_TEXT, Reference, References

DEEPEST_TEXT = 40
"""Nodes of its syntax tree, from the whole down to an innermost value: a dozen calls within each other have as many."""
PathText = Annotated[str, "a path"]
"""The type of an option that is the path of a file or folder, empty for none. A part says so itself (`rooted`).

It is a text: `def net(input_shape, num_classes, width=1.0, weights: PathText = "")`.
"""


@dataclass(frozen=True)
class Call:
    """A name, what it stands for, and its arguments as read from text; nested calls are already built.

    `called(…)` calls it: what the caller gives goes before the text's arguments. ValueError if the call fails, with
    the user's line first where `target` is the user's own. A target that is no function stands for itself.
    """

    name: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    target: Any = field(compare=False)
    what: str = field(compare=False)
    is_own: bool = field(compare=False, default=False)
    """Whether the target is the user's own."""

    def __call__(self, *given: Any) -> Any:
        """What the target makes of `given` and the text's arguments."""
        if not callable(self.target):
            return self.target
        try:
            return self.target(*given, *self.args, **self.options)
        except Exception as error:
            if self.is_own:
                raise ValueError(f"{own.blamed(error)} (while {self.what} {self.name} was made)") from error
            if isinstance(error, ValueError):
                raise
            raise ValueError(  # an option of a kind that a part does not count on
                f"{self.what} {self.name} cannot be made of these options: {type(error).__name__}: {error}"
            ) from error


def parse_call(
    text: str,
    known: Mapping[str, Callable[..., Any]],
    what: str,
    given: int = 0,
    follow: References = (),
) -> Call:
    """Read `text` as a call of one of `known`; a bare name is a call without arguments.

    >>> parse_call("Sorted(Small(3))", {"Sorted": list, "Small": range}, "list")()
    [0, 1, 2]

    `what` names the kind of thing in errors. The first `given` parameters are not the text's to set: the caller
    passes them. `follow`: the references to parts of the user's own that may be followed, none for texts from
    elsewhere. ValueError on text that is no such call, on unknown names and on unknown options.
    """
    tree, named = _tree(text, what)
    return _Reader(known, what, named, follow).call(tree, given)


def build(
    text: str,
    known: Mapping[str, Callable[..., Any]],
    what: str,
    kind: type = object,
    follow: References = (),
) -> Any:
    """The object that `text` describes: `parse_call`, then the call. ValueError as there, and if the call fails.

    A part of the user's own must make a `kind`, or be one.
    """
    tree, named = _tree(text, what)
    return _Reader(known, what, named, follow, kind).built(tree)


def absolute(path: str) -> str:
    """The path from the root, its ~ followed."""
    return str(Path(path).expanduser().absolute())


def rooted(
    text: str,
    known: Mapping[str, Callable[..., Any]],
    what: str,
    given: int = 0,
    place: Callable[[str], str] = absolute,
) -> str:
    """The text with every option that is a `PathText` made absolute, for processes that stand elsewhere.

    >>> def bert(weights: PathText = "") -> None: ...
    >>> rooted("bert(weights='/models/minilm')", {"bert": bert}, "model")
    "bert(weights='/models/minilm')"

    `known`, `what` and `given` as in `parse_call`; parts of the user's own say so as ours do. `place` gives the path
    that stands in a path's place. ValueError on text that is no call, and where a part of the user's own cannot be
    loaded.
    """
    tree, named = _tree(text, what)
    is_changed, unbuilt = False, {tree}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        name = cast(ast.Name, call.func).id
        target = own.load(named[name]) if name in named else known.get(name)
        parameters = list(inspect.signature(target).parameters.values()) if callable(target) else []
        parameters = parameters[given if call in unbuilt else 0 :]
        by_name = {keyword.arg: keyword.value for keyword in call.keywords}
        for parameter, value in zip_longest(parameters, call.args[: len(parameters)]):
            value = by_name.get(parameter.name, value)
            if parameter.annotation is Call and call in unbuilt:
                unbuilt.add(value)
            if _is_path(parameter.annotation) and isinstance(value, ast.Constant) and value.value:
                value.value = place(str(value.value))
                is_changed = True
    return _unparsed(tree, named) if is_changed else text


def _is_path(annotation: Any) -> bool:
    # With `from __future__ import annotations` it is its own text.
    return annotation is PathText or (isinstance(annotation, str) and annotation.rpartition(".")[2] == "PathText")


def _unparsed(node: ast.expr, named: Mapping[str, Reference]) -> str:
    text = ast.unparse(node)
    for mark, reference in named.items():
        text = text.replace(mark, str(reference))
    return text


def _tree(text: str, what: str) -> tuple[ast.expr, Mapping[str, Reference]]:
    """The syntax tree of an expression that is neither long nor deep, and what names in it stand for references."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"{what} has a text of {len(text)} characters, {LONGEST_TEXT} are allowed")
    plain, named = own.placed(text)
    try:
        node = ast.parse(plain.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
        hint = "; a part of your own is module:object or path/to/file.py:object" if ":" in text else ""
        raise ValueError(f"{what} {text!r} is not of the form Name(option=value){hint}") from error
    depth, layer = 0, [cast(ast.AST, node)]
    while layer:
        depth, layer = depth + 1, [child for parent in layer for child in ast.iter_child_nodes(parent)]
    if depth > DEEPEST_TEXT:
        raise ValueError(f"{what} {text[:40]!r}… is nested {depth} deep, {DEEPEST_TEXT} are allowed")
    return node, named


@dataclass(frozen=True)
class _Reader:
    """Reads the calls of one text."""

    known: Mapping[str, Callable[..., Any]]
    what: str
    named: Mapping[str, Reference]
    follow: References
    kind: type = object

    def call(self, node: ast.expr, given: int = 0) -> Call:
        if isinstance(node, ast.Name):
            node = ast.Call(node, [], [])
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError(f"{self.what} {self._shown(node)!r} is not of the form Name(option=value)")
        name, target = self._named(node.func.id)
        is_own = node.func.id in self.named
        if not callable(target):
            if node.args or node.keywords:
                raise ValueError(f"{self.what} {name} is a {type(target).__name__} and takes no options")
            return Call(name, (), {}, target, self.what, is_own)
        parameters = inspect.signature(target).parameters
        allowed = list(parameters)[given:]
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for keyword in node.keywords:
            if keyword.arg not in allowed and not (takes_any and keyword.arg):
                listed = ", ".join(allowed) or "none"
                hint = _hint(str(keyword.arg), allowed)
                raise ValueError(f"{self.what} {name} has no option {keyword.arg!r}; its options: {listed}{hint}")
        takes_all = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters.values())
        if len(node.args) > len(allowed) and not takes_all:
            raise ValueError(f"{self.what} {name} takes at most {len(allowed)} arguments, got {len(node.args)}")
        later = {name for name in allowed if parameters[name].annotation is Call}
        args = tuple(
            self._value(value, given, name in later)
            for name, value in zip_longest(allowed[: len(node.args)], node.args)
        )
        options = {
            str(keyword.arg): self._value(keyword.value, given, keyword.arg in later) for keyword in node.keywords
        }
        try:
            inspect.signature(target).bind(*[None] * given, *args, **options)
        except TypeError as error:
            calls = f"a run calls it with {given} arguments first; " if is_own and given else ""
            raise ValueError(
                f"{self.what} {self._shown(node)}: {error}; {calls}its options: {', '.join(allowed)}"
            ) from error
        return Call(name, args, options, target, self.what, is_own)

    def built(self, node: ast.expr) -> Any:
        call = self.call(node)
        made = call()
        if call.is_own and not isinstance(made, self.kind):
            raise ValueError(f"{self.what} {call.name} gives a {type(made).__name__}, expected a {self.kind.__name__}")
        return made

    def _named(self, name: str) -> tuple[str, Any]:
        """What a name, or the reference that stands in its place, is called and stands for."""
        reference = self.named.get(name)
        if reference is None:
            if name not in self.known:
                known = ", ".join(sorted(self.known))
                raise ValueError(f"unknown {self.what} {name!r}; known: {known}{_hint(name, self.known)}")
            return name, self.known[name]
        if reference not in self.follow:
            raise ValueError(f"{self.what} {str(reference)!r}: this text may name known ones only, none of one's own")
        return str(reference), own.load(reference)

    def _value(self, node: ast.expr, given: int, is_later: bool) -> Any:
        """What an argument stands for; `is_later`: a call, unbuilt, that will be `given` what its caller is."""
        if is_later:
            return self.call(node, given)
        if isinstance(node, ast.Call | ast.Name):
            return self.built(node)
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError) as error:  # TypeError: a list as the key of a dict
            shown = self._shown(node)
            raise ValueError(f"{self.what} option {shown!r} is not a number, text or {self.what}") from error

    def _shown(self, node: ast.expr) -> str:
        return _unparsed(node, self.named)


def _hint(name: str, known: Iterable[str]) -> str:
    """Which known name is meant, if one is near."""
    folded = {other.casefold(): other for other in known}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=0.75)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""
