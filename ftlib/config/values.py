"""What a word of a configuration means: decided by the type of the key that it stands for, then by YAML.

In: YAML text, or the right side of `key.path=value`, and the model that will validate it. Out: plain values (dict,
list, str, int, float, bool, None, date).

- A key of type text takes what is written: `4711.0`, `0123`, `no`, `2024-01-31` stay as they stand. On a command line
  that is the whole argument, with its blanks, quotes and `#`; in YAML it is an unquoted scalar after YAML's own rules.
- `null` means "not set" for a text key that may be null. Keys of people (`Verbatim`) have no such word.
- A key that takes text or a list (`target_modules`) gets the list where the argument is one, else the text.
- Every other key is read as YAML 1.1.

Aliases are expanded up to a limit, nesting is limited, and a key that stands twice in one mapping is refused.
"""

import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from ftlib.core.errors import UserError
from ftlib.core.logging import shown

MAX_NODES = 100_000
"""Values in one configuration, aliases expanded: a hundred times more than the largest that ships."""
MAX_DEPTH = 64

Types = tuple[Any, ...]
"""Alternatives of a type, without `Annotated` and unions."""


class Verbatim:
    """Marks a text field for which no word has a meaning of its own, `null` neither: somebody may be called so."""


class Private:
    """Marks a field whose value is never shown in a message: it names a person or may hold a password."""


class Sections:
    """Marks a field that holds plain values of another model, which validates them later."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model


@dataclass(frozen=True)
class Place:
    """What may stand at a key."""

    types: Types
    verbatim: bool = False
    private: bool = False

    @classmethod
    def of(cls, annotation: Any) -> "Place":
        """The place that an annotation describes."""
        marks = list(_marks(annotation))
        sections = [mark.model for mark in marks if isinstance(mark, Sections)]
        optional = (type(None),) if type(None) in _alternatives(annotation) else ()
        return cls(
            (*sections, *optional) if sections else _alternatives(annotation),
            verbatim=any(isinstance(mark, Verbatim) for mark in marks),
            private=any(isinstance(mark, Private) for mark in marks),
        )

    @property
    def text(self) -> bool:
        """Whether a scalar here is text."""
        scalars = [kind for kind in self.types if not _is_container(kind) and kind is not type(None)]
        return bool(scalars) and all(_is_text(kind) for kind in scalars)

    @property
    def nullable(self) -> bool:
        """Whether it may be null."""
        return type(None) in self.types

    @property
    def container(self) -> bool:
        """Whether a list or mapping may stand here."""
        return any(_is_container(kind) for kind in self.types)

    @property
    def item(self) -> "Place":
        """What an element of a list here may be."""
        found = [argument for kind in self.types if _origin(kind) in (list, tuple) for argument in get_args(kind)]
        return Place.of(Union[tuple(found)]) if found else ANYTHING  # noqa: UP007

    def child(self, key: str) -> "Place":
        """What may stand under a key of a mapping here."""
        found: list[Any] = []
        for kind in self.types:
            if isinstance(kind, type) and issubclass(kind, BaseModel) and key in kind.model_fields:
                info = kind.model_fields[key]
                found.append(Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation)
            elif _origin(kind) is dict:
                found.append(get_args(kind)[1])
        return Place.of(Union[tuple(found)]) if found else ANYTHING  # noqa: UP007


ANYTHING = Place((Any,))


def _alternatives(annotation: Any) -> Types:
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(kind for argument in get_args(annotation) for kind in _alternatives(argument))
    return (annotation,)


def _marks(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        base, *marks = get_args(annotation)
        yield from marks
        yield from _marks(base)
    elif get_origin(annotation) in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _marks(argument)


def _origin(kind: Any) -> Any:
    return get_origin(kind)


def _is_container(kind: Any) -> bool:
    return _origin(kind) in (list, tuple, dict) or (isinstance(kind, type) and issubclass(kind, BaseModel))


def _is_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)))


def from_argument(text: str, place: Place) -> Any:
    """What the right side of `key.path=value` says; text that is no YAML stays text, for validation to name."""
    if place.text and not (place.container and text.lstrip()[:1] in ("[", "{")):
        return None if text == "null" and place.nullable and not place.verbatim else text
    if not text:
        return ""
    try:
        value = from_yaml(text, place)
    except yaml.YAMLError:
        return text
    if place.text and isinstance(value, str):
        return text
    if isinstance(value, date) or (type(value) is int and str(value) != text):
        return text  # 0123 is no octal number, nor 1_0 ten
    return value


def from_yaml(text: str, place: Place) -> Any:
    """The value of a YAML document.

    Raises:
        yaml.YAMLError: no YAML.
        UserError: too deep, too large with its aliases expanded, or a key twice in one mapping.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _Reader(loader).value(node, place, 0)
    except RecursionError:
        raise UserError(f"nested more than {MAX_DEPTH} levels deep") from None
    finally:
        loader.dispose()


@dataclass
class _Reader:
    """Builds values from YAML nodes, each by the type of its place."""

    loader: yaml.SafeLoader
    num_nodes: int = field(default=0)

    def value(self, node: yaml.Node, place: Place, depth: int) -> Any:
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise UserError(f"more than {MAX_NODES:,} values when its aliases are expanded")
        if depth > MAX_DEPTH:
            raise UserError(f"nested more than {MAX_DEPTH} levels deep")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, depth)
        if isinstance(node, yaml.SequenceNode):
            item = place.item
            return [self.value(child, item, depth + 1) for child in node.value]
        return self._scalar(node, place)

    def _scalar(self, node: yaml.Node, place: Place) -> Any:
        word: str = node.value
        if place.text:
            is_null = node.tag == "tag:yaml.org,2002:null" and not (place.verbatim and word)
            return None if is_null else word
        try:
            return self.loader.construct_object(node)
        except ValueError:  # an integer of thousands of digits, a thirteenth month
            return word

    def _mapping(self, node: yaml.MappingNode, place: Place, depth: int) -> dict[Any, Any]:
        merged: dict[Any, Any] = {}
        values: dict[Any, Any] = {}
        for key_node, child in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                for source in child.value if isinstance(child, yaml.SequenceNode) else [child]:
                    if not isinstance(source, yaml.MappingNode):
                        raise yaml.constructor.ConstructorError(None, None, "<< needs a mapping", key_node.start_mark)
                    merged = {**self._mapping(source, place, depth + 1), **merged}
                continue
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in values:
                raise UserError(
                    f"the key {shown(key)} stands twice in one mapping (line {key_node.start_mark.line + 1})"
                )
            values[key] = self.value(child, place.child(key), depth + 1)
        return {**merged, **values}


def place_at(model: type[BaseModel], path: Sequence[str]) -> Place:
    """What may stand at a key path below a model."""
    place = Place((model,))
    for part in path:
        place = place.child(part)
    return place


def as_argument(value: Any, place: Place) -> str | None:
    """The right side of `key.path=value` that says this value again; None where none does."""
    text = value if isinstance(value, str) and place.text else json.dumps(value, ensure_ascii=False)
    return text if from_argument(text, place) == value else None


def put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value at a key path; sections on the way are made."""
    node = values
    *parents, last = path
    for parent in parents:
        child = node.get(parent)
        if not isinstance(child, Mapping):
            child = node[parent] = {}
        node = child  # type: ignore[assignment]
    node[last] = value
