"""From a YAML file and `key.path=value` overrides to a validated configuration.

Precedence: defaults < YAML < overrides. All mistakes are reported at once, each with its key, the value and, for an
unknown key, the nearest right name. What a word means is decided by its key's type: see `ftlib.config.values`. Secrets
have no place in a config; see `ftlib.core.secrets`.
"""

import difflib
import json
import os
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ftlib.config.base import SECRET_ERROR, Config, PathMarker
from ftlib.config.values import Place, as_argument, from_argument, from_yaml, place_at, put
from ftlib.core.errors import UserError
from ftlib.core.logging import shown

MAX_CONFIG_BYTES = 16 << 20
"""A configuration is read whole."""

C = TypeVar("C", bound=Config)


def load_config(cls: type[C], source: str | None, overrides: Sequence[str] = ()) -> C:
    """Build `cls` from a YAML file (or inline JSON that starts with `{`) and overrides; raises UserError."""
    values = read_mapping(source, cls) if source else {}
    for override in overrides:
        _apply_override(cls, values, override)
    return validate(cls, values)


def validate(cls: type[C], values: dict[str, Any]) -> C:
    """Validate plain values, folding every mistake into one UserError."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        lines = [_describe(cls, item) for item in error.errors(include_url=False)]
        noun = "mistake" if len(lines) == 1 else "mistakes"
        raise UserError(
            f"{len(lines)} {noun} in the configuration:\n" + "\n".join(f"  {line}" for line in lines)
        ) from None


def read_mapping(source: str, cls: type[BaseModel]) -> dict[str, Any]:
    """The mapping in a YAML file or in inline JSON, each word read as the type of its key in `cls` says."""
    if source.lstrip().startswith("{"):
        text, name = source, "the inline config"
    else:
        text, name = _read_file(source), shown(source, 300)
    try:
        values = from_yaml(text, Place((cls,)))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: not valid YAML: {shown(' '.join(str(error).split()), 500)}") from None
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{name}: a mapping of keys is expected, found {type(values).__name__}")
    return values


def _read_file(source: str) -> str:
    try:
        path = Path(source).expanduser()
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise UserError(f"{shown(source, 300)}: {path.stat().st_size:,} bytes are too many for a config file")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{shown(source, 300)}: no such config file (looked in {os.getcwd()})") from None
    except (OSError, UnicodeDecodeError, ValueError, RuntimeError) as error:
        raise UserError(f"{shown(source, 300)}: the config file cannot be read ({shown(error, 300)})") from None


def _apply_override(cls: type[BaseModel], values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    path = key.split(".")
    if not separator or not all(path):
        # Part of a value may have come loose, a person's name say: only what begins like a key is repeated.
        what = repr(key) if path[0] in cls.model_fields else "an argument"
        raise UserError(
            f"override {shown(what)} is not of the form key.path=value; put a value with blanks into quotes"
        )
    try:
        put(values, path, from_argument(text, place_at(cls, path)))
    except UserError as error:
        raise UserError(f"{shown(key)}: {error}") from None


def as_override(cls: type[BaseModel], path: Sequence[str], value: Any) -> str | None:
    """The argument `key.path=value` that sets a value again; None where only a file or inline JSON can say it."""
    text = None if any("." in part or "=" in part for part in path) else as_argument(value, place_at(cls, path))
    return None if text is None else f"{'.'.join(path)}={text}"


def _describe(cls: type[BaseModel], item: Any) -> str:
    key = shown(".".join(str(part) for part in item["loc"]), 200)
    if item["type"] == "extra_forbidden":
        parent, unknown = _model_at(cls, item["loc"][:-1]), str(item["loc"][-1])[:80]
        near = difflib.get_close_matches(unknown, _names(parent), n=1, cutoff=0.5) if parent else []
        prefix = ".".join(str(part) for part in item["loc"][:-1])
        hint = f"; did you mean {'.'.join(filter(None, [prefix, near[0]]))}?" if near else ""
        if not hint and parent:
            hint = f"; known here: {', '.join(sorted(_names(parent)))}"
        return f"{key}: unknown key{hint}"
    if item["type"] == "missing":
        return f"{key}: required"
    message = item["msg"].removeprefix("Value error, ")
    if isinstance(item["input"], dict):
        return f"{message}" if not item["loc"] else f"{key}: {message}"
    if item["type"] == SECRET_ERROR or _is_private(cls, item["loc"]):
        return f"{key}: {message}"
    return f"{key}: {message} (got {shown(json.dumps(item['input'], default=str))})"


def _is_private(cls: type[BaseModel], location: Sequence[int | str]) -> bool:
    """Whether the value at a place of an error, or one that holds it, is not to be shown."""
    place = Place((cls,))
    for part in location:
        place = place.item if isinstance(part, int) else place.child(part)
        if place.private or place.item.private:
            return True
    return False


def _names(model: type[BaseModel]) -> list[str]:
    return list(model.model_fields)


def _model_at(cls: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel] | None:
    """The model that validates the value at `location`, skipping list indices and union tags."""
    current: type[BaseModel] | None = cls
    for part in location:
        if current is None:
            return None
        field = current.model_fields.get(str(part))
        if field is None:
            continue
        current = next(iter(_models_in(field.annotation)), None)
    return current


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def map_paths(config: C, change: Callable[[str, str], str]) -> C:
    """A copy of `config` with `change(key, value)` applied to every field marked as a path."""
    return validate(type(config), _map_model(config, change, ""))


def _map_model(model: BaseModel, change: Callable[[str, str], str], prefix: str) -> dict[str, Any]:
    values = {}
    for name in model.model_fields_set:
        field = type(model).model_fields[name]
        annotation = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        values[name] = _map_value(getattr(model, name), annotation, change, f"{prefix}{name}")
    return values


def _map_value(value: Any, annotation: Any, change: Callable[[str, str], str], key: str) -> Any:
    if isinstance(value, BaseModel):
        return _map_model(value, change, f"{key}.")
    if isinstance(value, str):
        return change(key, value) if _is_path(annotation) else value
    inner = _unwrap(annotation)
    if isinstance(value, (list, tuple)):
        item = next(iter(get_args(inner)), Any)
        return [_map_value(child, item, change, f"{key}[{i}]") for i, child in enumerate(value)]
    if isinstance(value, dict):
        item = (get_args(inner) or (Any, Any))[-1]
        return {name: _map_value(child, item, change, f"{key}.{name}") for name, child in value.items()}
    return value


def _unwrap(annotation: Any) -> Any:
    """Strip `Annotated` and pick the container alternative of a union."""
    if get_origin(annotation) is Annotated:
        return _unwrap(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        containers = [a for a in get_args(annotation) if get_origin(_unwrap(a)) in (list, tuple, dict)]
        return _unwrap(containers[0]) if containers else annotation
    return annotation


def _is_path(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        base, *metadata = get_args(annotation)
        return any(isinstance(item, PathMarker) for item in metadata) or _is_path(base)
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_is_path(alternative) for alternative in get_args(annotation))
    return False


def is_relative_path(value: str) -> bool:
    """Whether a marked path depends on the working directory: not a URI, not absolute, not `embedded:…`, not `~`."""
    return not ("://" in value or os.path.isabs(value) or value.startswith(("~", "embedded:")))


def absolute_paths(config: C, base: str | None = None) -> C:
    """A copy with relative paths made absolute below `base` (default: the working directory).

    A model source stays as it is unless it names an existing folder: it may be a hub id.
    """
    root = base or os.getcwd()

    def change(key: str, value: str) -> str:
        candidate = os.path.normpath(os.path.join(root, value))
        if not is_relative_path(value) or (_is_source(key) and not os.path.exists(candidate)):
            return value
        return candidate

    return map_paths(config, change)


def refuse_relative_paths(config: Config) -> None:
    """Raise UserError for relative paths: under `ray job submit` the working directory is an uploaded copy."""
    problems: list[str] = []

    def check(key: str, value: str) -> str:
        if is_relative_path(value) and not _is_source(key):
            suggestion = os.path.join("$PWD", os.path.normpath(value))
            problems.append(f'  {key}={value} is relative; give the absolute one: {key}="{suggestion}"')
        return value

    map_paths(config, check)
    if problems:
        raise UserError(
            "this job runs from an uploaded copy of your working directory, so relative paths would be lost with it:\n"
            + "\n".join(problems)
            + "\n  (python -m jobs.submit makes paths absolute by itself)"
        )


def _is_source(key: str) -> bool:
    return key.rsplit(".", 1)[-1] == "source"
