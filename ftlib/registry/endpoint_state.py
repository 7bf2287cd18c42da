"""Search an endpoint's `state_dir` for a person: uploads, answers of batches, and batches with work left.

Uploads hold requests as clients sent them, so a row is the person's where a whole value in it is the key (a field such
as `user`, `custom_id`, metadata) or a text in it names the key. The answer to such a row is found by its `custom_id`.
Files are read line by line; one that is no JSON lines, or cannot be read, is listed as not searched.
"""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftlib.core import state_layout as layout
from ftlib.core.errors import UserError
from ftlib.core.storage import local_path

MAX_LINE_BYTES = 64 << 20
Place = Callable[[Any], str | None]
"""Where a JSON value names the person: `field`, `text`, or None."""


@dataclass
class StateFindings:
    """What a state folder holds of a person."""

    held: list[dict[str, Any]] = field(default_factory=list)
    """`path`, `tenant`, `id`, `kind` (`file`, `batch`), `num_rows`, `by` (`field`, `text`, `answer`), `command`."""
    unsearched: list[dict[str, str]] = field(default_factory=list)
    """`path` and `reason`."""


@dataclass
class _Hits:
    """Rows of one file that are the person's."""

    num_rows: int = 0
    by: str = ""
    custom_ids: set[str] = field(default_factory=set)

    def add(self, row: Any, by: str) -> None:
        self.num_rows += 1
        self.by = by if not self.by or by == "field" else self.by
        if isinstance(row, dict) and isinstance(row.get("custom_id"), str):
            self.custom_ids.add(row["custom_id"])


def search_state(state_dir: str, place_in: Place) -> StateFindings:
    """Search one state folder; a folder that is not there holds nothing. Raises UserError for one behind a URI."""
    root = local_path(state_dir)
    found = StateFindings()
    try:
        tenants = sorted((root / layout.TENANTS).iterdir()) if (root / layout.TENANTS).exists() else []
    except OSError as error:
        raise UserError(f"{root}: the endpoint's state cannot be read ({error.strerror})") from None
    for tenant in tenants:
        if tenant.is_dir():
            _search_tenant(root, tenant, place_in, found)
    return found


def _search_tenant(root: Path, tenant: Path, place_in: Place, found: StateFindings) -> None:
    uploads = {path.stem: path for path in sorted((tenant / layout.FILES).glob(f"*.{layout.DATA}"))}
    answers: dict[str, set[str]] = {}
    held: dict[str, _Hits] = {}
    for name, path in uploads.items():
        held[name] = _search_file(path, place_in, frozenset(), found)
    for folder in sorted((tenant / layout.BATCHES).glob("batch_*")):
        batch = _object(folder / layout.BATCH_OBJECT)
        asked = held.get(str(batch.get("input_file_id")), _Hits()).custom_ids
        own = _search_batch(folder, place_in, asked, found)
        # The upload may be deleted already: what the batch itself holds says whose the answers are.
        asked = asked | own.custom_ids
        for name in ("output_file_id", "error_file_id"):
            if asked and batch.get(name):
                answers.setdefault(str(batch[name]), set()).update(asked)
        if own.num_rows or place_in(batch.get("metadata")):
            mark = root / layout.QUEUE / f"{tenant.name}.{folder.name}"
            command = _remove(mark, folder) if mark.exists() else f"rm -rf -- {shlex.quote(str(folder))}"
            found.held.append(_entry(folder, own, command, kind="batch", tenant=tenant.name, id=folder.name))
    for name, wanted in answers.items():
        if name in uploads:
            own = _search_file(uploads[name], place_in, frozenset(wanted), StateFindings())
            held[name] = own if own.num_rows else held[name]
    for name, hits in held.items():
        described = _object(uploads[name].with_suffix(f".{layout.OBJECT}"))
        if hits.num_rows or place_in(described.get("filename")):
            paths = [uploads[name], uploads[name].with_suffix(f".{layout.OBJECT}")]
            command = f"rm -f -- {' '.join(shlex.quote(str(path)) for path in paths)}"
            found.held.append(_entry(paths[0], hits, command, kind="file", tenant=tenant.name, id=name))


def _entry(path: Path, hits: _Hits, command: str, **what: str) -> dict[str, Any]:
    # A name or metadata alone may be what names the person: then no row does.
    return {"path": str(path), **what, "num_rows": hits.num_rows, "by": hits.by or "field", "command": command}


def _remove(mark: Path, folder: Path) -> str:
    """A batch with work left is taken off the queue first, so that no worker goes on with it."""
    return f"rm -f -- {shlex.quote(str(mark))} && rm -rf -- {shlex.quote(str(folder))}"


def _search_batch(folder: Path, place_in: Place, asked: set[str], found: StateFindings) -> _Hits:
    """Rows in a batch's own folder: its input, and the journals of rows that are done."""
    hits = _Hits()
    for path in sorted(folder.glob("*")):
        if path.name == layout.BATCH_INPUT or path.name.startswith(f"{layout.JOURNAL}."):
            own = _search_file(path, place_in, frozenset(asked | hits.custom_ids), found)
            hits.num_rows += own.num_rows
            hits.custom_ids |= own.custom_ids
            hits.by = hits.by or own.by
    return hits


def _search_file(path: Path, place_in: Place, custom_ids: frozenset[str], found: StateFindings) -> _Hits:
    """The person's rows in a file of JSON lines. `custom_ids`: rows that answer one of the person's."""
    hits = _Hits()
    try:
        for row in _rows(path):
            if by := place_in(row):
                hits.add(row, by)
            elif custom_ids and _answers(row) in custom_ids:
                hits.add(row, "answer")
    except OSError as error:
        found.unsearched.append({"path": str(path), "reason": f"cannot be read ({error.strerror})"})
    except ValueError as error:
        found.unsearched.append({"path": str(path), "reason": str(error)})
    return hits


def _answers(row: Any) -> str | None:
    """The `custom_id` of an answer, in an output file or a journal."""
    value = row.get("result", row) if isinstance(row, dict) else None
    found = value.get("custom_id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _rows(path: Path) -> Iterator[Any]:
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"line {number} is longer than {MAX_LINE_BYTES:,} bytes")
            if not line.strip():
                continue
            try:
                yield json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError):
                raise ValueError(f"line {number} is no JSON") from None


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
