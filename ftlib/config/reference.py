"""The reference of all configuration keys, in Markdown, generated from the models.

`python -m ftlib.config.reference` prints it; `--write README.md` replaces what stands between the two markers in a
file; `--check README.md` exits 1 when that part is out of date.
"""

import argparse
import sys
import types
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ftlib.config.audit import AuditConfig
from ftlib.config.base import JobConfig, PathMarker
from ftlib.config.deploy import DeployConfig
from ftlib.config.erase import EraseConfig
from ftlib.config.evaluate import EvaluateConfig
from ftlib.config.pipeline import PipelineConfig
from ftlib.config.prepare import PrepareConfig
from ftlib.config.promote import PromoteConfig
from ftlib.config.sweep import SweepConfig
from ftlib.config.train import TrainConfig
from ftlib.core.storage import write_text

BEGIN, END = "<!-- config:begin -->", "<!-- config:end -->"
JOBS: dict[str, type[JobConfig]] = {
    "prepare": PrepareConfig,
    "audit": AuditConfig,
    "train": TrainConfig,
    "sweep": SweepConfig,
    "evaluate": EvaluateConfig,
    "erase": EraseConfig,
    "promote": PromoteConfig,
    "deploy": DeployConfig,
    "pipeline": PipelineConfig,
}
_NAMES = {str: "text", int: "int", float: "float", bool: "true / false", Any: "any", type(None): "none", date: "date"}
_BOUNDS = ((annotated_types.Ge, "ge", "≥"), (annotated_types.Gt, "gt", ">"), (annotated_types.Le, "le", "≤"),
           (annotated_types.Lt, "lt", "<"))  # fmt: skip


def render() -> str:
    """One table for what every job has, and one for each job."""
    parts = ["### Every job", "", *_table(_rows(JobConfig))]
    for name, cls in JOBS.items():
        parts += ["", f"### jobs.{name}", ""]
        if notes := _text(cls.__doc__).removeprefix(f"`jobs.{name}`.").strip():
            parts += [notes, ""]
        parts += _table(_rows(cls, skip=set(JobConfig.model_fields)))
    return "\n".join(parts)


def replaced(page: str) -> str:
    """A page with the reference between its markers; raises ValueError when they are missing."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the markers {BEGIN} and {END} are missing")
    return f"{head}{BEGIN}\n{render()}\n{END}{tail}"


def _table(rows: Iterator[tuple[str, str, str, str]]) -> list[str]:
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    return lines + [f"| `{key}` | {kind} | {default} | {text} |" for key, kind, default, text in rows]


def _rows(
    cls: type[BaseModel], prefix: str = "", skip: frozenset[str] | set[str] = frozenset()
) -> Iterator[tuple[str, str, str, str]]:
    """Key path, type, default and description of every leaf below a model.

    A model inside is opened up; `[]` stands for an item of a list, `NAME` for a key of a mapping. A whole job inside
    another is named, not repeated.
    """
    for name, info in cls.model_fields.items():
        if name in skip:
            continue
        key, inner = f"{prefix}{name}", _models_in(info.annotation)
        if any(issubclass(model, JobConfig) for model in inner):
            yield key, f"the keys of `jobs.{_job_of(inner[0])}`", _default(info), _text(info.description)
            continue
        container = _container(info.annotation)
        if not inner or container or _default(info) == "none":
            yield key, _type(info.annotation, info.metadata), _default(info), _text(info.description)
        for model in inner:
            below = f"{key}{container}."
            if len(inner) > 1:
                kind = get_args(model.model_fields["type"].annotation)[0]
                yield from (
                    (path, kind_type, default, f"`{kind}`: {text}")
                    for path, kind_type, default, text in _rows(model, below)
                )
            else:
                yield from _rows(model, below)


def _job_of(cls: type[BaseModel]) -> str:
    return next(name for name, known in JOBS.items() if known is cls)


def _container(annotation: Any) -> str:
    """`[]` for a list of models, `.NAME` for a mapping to models."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _container(get_args(annotation)[0])
    return "[]" if origin is list else ".NAME" if origin is dict else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _type(annotation: Any, metadata: list[Any]) -> str:
    """A type in words, with its bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        text = _type(arguments[0], [*arguments[1:], *metadata])
    elif any(isinstance(item, PathMarker) for item in metadata):
        text = "path"
    elif origin is Literal:
        text = ", ".join(f"`{value}`" for value in arguments)
    elif origin in (Union, types.UnionType):
        text = " or ".join(dict.fromkeys(_type(item, metadata) for item in arguments if item is not type(None)))
    elif origin is list:
        text = f"list of {_type(arguments[0], [])}"
    elif origin is dict:
        text = f"mapping to {_type(arguments[1], [])}"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        text = "section"
    else:
        text = " ".join([_NAMES.get(annotation, str(annotation)), ", ".join(_bounds(metadata))]).strip()
    return text


def _bounds(metadata: list[Any]) -> list[str]:
    constraints = [inner for item in metadata for inner in getattr(item, "metadata", [item])]
    return [
        f"{sign} {getattr(item, name)}"
        for item in constraints
        for kind, name, sign in _BOUNDS
        if isinstance(item, kind)
    ]


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    value = info.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, list | dict):
        return _code(str(_plain(value))) if value else "empty"
    return _code(str(value).lower() if isinstance(value, bool) else str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields if name in value.model_fields_set}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else "empty"


def _text(description: str | None) -> str:
    return " ".join((description or "").split()).replace("|", "\\|")


def main(argv: list[str] | None = None) -> int:
    """Print, write or check the reference; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ftlib.config.reference", description="Reference of all config keys."
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--write", metavar="FILE", help="replace the part between the markers")
    group.add_argument("--check", metavar="FILE", help="exit 1 when that part is out of date")
    arguments = parser.parse_args(argv)
    file = arguments.write or arguments.check
    if file is None:
        print(render())
        return 0
    page = Path(file).read_text(encoding="utf-8")
    wanted = replaced(page)
    if arguments.write:
        write_text(file, wanted)
    elif page != wanted:
        print(f"{file}: the reference of configuration keys is out of date; run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
