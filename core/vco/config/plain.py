"""Strict conversion between plain data (files, command line) and typed attrs classes.

Nothing is guessed and nothing is lost: 1.9 is no int, "false" is false, an unknown key is an error with a suggestion;
all mistakes are reported at once, each with its path and its source.
"""

import ast
import inspect
import textwrap
import types
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from importlib.resources.abc import Traversable
from itertools import pairwise
from typing import Any, Final, Literal, NoReturn, TypeGuard

import attrs
import yaml

from vco.errors import UserError, did_you_mean, one_line

_WORDS: Final = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_UNIONS: Final = (types.UnionType, typing.Union)
_MAX_BYTES: Final = 262_144  # a configuration is a page; a longer file is a mistake, and slow to parse


@attrs.frozen
class Given:
    """A value as plain data, and where somebody gave it (for messages)."""

    value: Any
    source: str


def is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    """Whether plain data is a mapping."""
    return isinstance(value, Mapping)


def is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    """Whether plain data is a list."""
    return isinstance(value, list | tuple)


def parse(kind: Any, value: Any) -> Any:
    """Turns text of the command line, or a typed value of a file, into a value of the annotated type.

    Types: bool, int, float, str, Literal, X | None, tuple[X, ...], tuple[X, Y], Mapping[str, X].

    Raises:
        ValueError: if the value is not of that type, saying what was expected.
        TypeError: if the annotation is none of these types.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is bool:
        value = _WORDS.get(value.lower(), value) if isinstance(value, str) else value
        return value if isinstance(value, bool) else _refuse(kind, value)
    if kind is int or kind is float:
        return _number(kind, value)
    if kind is str:
        return value if isinstance(value, str) and value.isprintable() else _refuse(kind, value)
    if origin is Literal:
        fits = [choice for choice in args if value == (str(choice) if isinstance(value, str) else choice)]
        return fits[0] if fits and not isinstance(value, bool) else _refuse(kind, value)
    if origin in _UNIONS and len(args) == 2 and types.NoneType in args:
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return parse(next(arg for arg in args if arg is not types.NoneType), value)
    if origin is tuple and args:
        items = [item for item in value.split(",") if item] if isinstance(value, str) else value
        if not is_list(items) or (args[-1] is not ... and len(items) != len(args)):
            _refuse(kind, value)
        inner = [args[0]] * len(items) if args[-1] is ... else args
        return tuple(parse(arg, item) for arg, item in zip(inner, items, strict=True))
    if origin is Mapping and args[0] is str:
        if isinstance(value, str):
            pairs = [part.partition("=") for part in value.split(",") if part]
            named = {name.strip(): item for name, equals, item in pairs if equals}
            value = named if len(named) == len(pairs) else _refuse(kind, value)
        if not is_mapping(value):
            _refuse(kind, value)
        return {parse(str, key): parse(args[1], item) for key, item in value.items()}
    raise TypeError(f"options of type {kind} are not supported")


def _refuse(kind: Any, value: Any) -> NoReturn:
    shown = repr(value)
    raise ValueError(f"expected {form(kind)}, got {shown if len(shown) <= 60 else shown[:57] + '...'}")


def _number(kind: type[int] | type[float], value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (str, int) if kind is int else (str, int, float)):
        _refuse(kind, value)
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        _refuse(kind, value)
    if not abs(number) < 2**63:  # nor is NaN; and products of two of them stay within float32
        raise ValueError(f"expected {form(kind)} of a size below 2**63, got {value!r:.60}")
    return number


def form(kind: Any) -> str:
    """How a value of this type is written on the command line, as in `float,float` or `auto|fp32|bf16`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join(str(choice) for choice in args)
    if origin in _UNIONS:
        return "|".join("none" if arg is types.NoneType else form(arg) for arg in args)
    if origin is tuple:
        return ",".join("..." if arg is ... else form(arg) for arg in args)
    if origin is Mapping:
        return f"name={form(args[1])},..."
    return {bool: "true|false", str: "text", int: "int", float: "float"}.get(kind, str(kind))


def as_text(value: Any) -> str:
    """A value as it is written on the command line."""
    if is_mapping(value):
        return ",".join(f"{key}={as_text(item)}" for key, item in value.items())
    if is_list(value):
        return ",".join(as_text(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def to_plain(value: Any) -> Any:
    """Dicts, lists and scalars that every YAML reader understands and `build` turns back into an equal object."""
    if attrs.has(value.__class__):
        return {field.name: to_plain(getattr(value, field.name)) for field in attrs.fields(value.__class__)}
    if is_mapping(value):
        return {str(key): to_plain(item) for key, item in value.items()}
    if is_list(value):
        return [to_plain(item) for item in value]
    assert value is None or isinstance(value, bool | int | float | str), f"not plain data: {value!r}"
    return value


def unsupported(cls: type[Any]) -> dict[str, Any]:
    """The fields whose type neither a file nor the command line can hold, and that type."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in attrs.fields(cls) if not _is_supported(hints[field.name])}


def _is_supported(kind: Any) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in _UNIONS:
        return (
            len(args) == 2
            and types.NoneType in args
            and all(_is_supported(arg) for arg in args if arg is not types.NoneType)
        )
    if origin is tuple:
        return bool(args) and all(_is_supported(arg) for arg in args if arg is not ...)
    if origin is Mapping:
        return args[0] is str and _is_supported(args[1])
    if origin is Literal:
        return all(type(choice) in (int, str) for choice in args)
    return kind in (bool, int, float, str)


def sampling_options(cls: type[Any]) -> set[str]:
    """The fields that say, with metadata={"sampling": True}, that they act in sampling alone."""
    return {field.name for field in attrs.fields(cls) if field.metadata.get("sampling")}


def locations(cls: type[Any]) -> set[str]:
    """The fields that say, with metadata={"location": True}, where files lie."""
    return {field.name for field in attrs.fields(cls) if field.metadata.get("location")}


def field_docs(cls: type[Any]) -> dict[str, str]:
    """The docstring line under each field, base classes first; none where the source cannot be read."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, text in pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(line))):
                    docs[name] = " ".join(line.split())
                case _:
                    pass
    return docs


def build(
    cls: type[Any], given: Mapping[str, Given], path: str, errors: list[str], ready: Mapping[str, Any] | None = None
) -> Any:
    """Makes an object of an attrs class, or returns None after adding every mistake to `errors`.

    Args:
        cls: attrs class whose fields have defaults, but for those in `ready`.
        given: field -> what the user set it to.
        path: where the object stands in the configuration ("backbone"; "" at the top), for messages.
        errors: gets one line for every mistake.
        ready: values of fields that are not the user's to set.
    """
    prefix, hints, before = f"{path}." if path else "", typing.get_type_hints(cls), len(errors)
    values, wrong = dict(ready or {}), list[str]()
    fields = {field.name: field for field in attrs.fields(cls) if field.init and field.name not in values}
    for name, item in given.items():
        try:
            if name not in fields:
                near = did_you_mean(f"{prefix}{name}", [prefix + known for known in fields])
                raise ValueError(f"unknown option{near or '; known: ' + (', '.join(fields) or 'none')}")
            values[name] = parse(hints[name], item.value)
        except (ValueError, TypeError) as error:
            wrong += [name] if name in fields else []
            errors.append(f"{prefix}{name}: {error} (from {item.source})")
    try:
        with attrs.validators.disabled():  # __init__ would stop at the first; a global switch, so main thread only
            built = cls(**values)
    except Exception as error:
        errors += [] if errors[before:] else [f"{path or cls.__name__}: {one_line(error)}"]
        return None
    for name in wrong:
        object.__delattr__(built, name)  # so that checks across fields trip over it instead of judging the default
    for name, field in fields.items():
        if field.validator is None or name in wrong:
            continue
        source = f" (from {given[name].source})" if name in given else ""
        try:
            field.validator(built, field, getattr(built, name))
        except Exception as error:
            expected = isinstance(error, ValueError | TypeError)
            if expected or not errors[before:]:  # anything else is a check that tripped over a reported field
                errors.append(
                    f"{prefix}{name}: {error.args[0] if expected and error.args else one_line(error)}{source}"
                )
    return None if errors[before:] else built


def _unique(pairs: Iterable[tuple[Hashable, Any]]) -> dict[Hashable, Any]:
    found: dict[Hashable, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UserError(f"the key {key!r} is given twice")
        found[key] = value
    return found


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases (a few lines of them unfold into gigabytes) and without repeated keys."""

    def compose_node(self: Any, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise UserError("aliases (*name) are not allowed")
        return yaml.SafeLoader.compose_node(self, parent, index)

    def construct_mapping(self: Any, node: Any, deep: bool = False) -> Any:
        return _unique(
            (self.construct_object(key, True), self.construct_object(item, True)) for key, item in node.value
        )


def read_plain(file: Traversable) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: if it cannot be read, is not a mapping, or holds more than plain data.
    """
    try:
        if not file.is_file():  # a pipe or a device would be read for ever
            raise UserError("there is no such file")
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise UserError(f"it has more than {_MAX_BYTES} bytes")
        plain = yaml.load(content.decode("utf-8-sig"), _PlainLoader)  # no tag makes it import or call anything
        plain = {} if plain is None else plain
        if not is_mapping(plain) or not all(isinstance(key, str) for key in plain):
            raise UserError("it must be a mapping from names to values")
        return dict(plain)
    except Exception as error:  # PyYAML lets KeyError, AttributeError, RecursionError and more through
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        reason = f"{error.args[0] or ''} {error.args[2]} in line {mark.line + 1}".strip() if mark else one_line(error)
        raise UserError(f"cannot read the configuration {file}: {reason}") from error
