"""Search of review exports for a person's rows: copies of `review.jsonl`, and what a labelling tool gave back.

A file is one where its first record is a task of `data.review` or a decision. Its rows are the person's where they name
a row of the person's by source and position, by an id of the person's rows, or where a value is the key itself.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.storage import filesystem
from ftlib.data import schema as s
from ftlib.data.person import Person

_HEAD_BYTES = 1 << 16
_MAX_LIST_BYTES = 1 << 30
_MARKS = ("predictions", "annotations", "decision")


def search_reviews(
    paths: Iterable[str], person: Person, rows: frozenset[tuple[str, int]], ids: frozenset[str]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Return the review files that hold rows of the person, and those that could not be searched.

    Args:
        paths: files that may be review exports.
        person: whose.
        rows: source and position of the person's rows in the datasets found.
        ids: their ids.

    Returns:
        `path` and `num_rows` of each; `path` and `reason` of each.
    """
    found, unsearched = [], []
    for path in paths:
        try:
            if not is_review(path):
                continue
            count = sum(_is_theirs(item, person, rows, ids) for item in _items(path))
            if count:
                found.append({"path": path, "num_rows": count})
        except (OSError, ValueError, RecursionError, UserError) as error:
            reason = "cannot be read" if isinstance(error, OSError | UserError) else "is no JSON"
            unsearched.append({"path": path, "reason": reason})
    return found, unsearched


def is_review(path: str) -> bool:
    """Whether a file begins like a review export; raises OSError where it cannot be read."""
    fs, inner = filesystem(path)
    with fs.open(inner, "rb") as file:
        head = file.read(_HEAD_BYTES)
    text = head.decode("utf-8-sig", "replace").lstrip()
    if text[:1] not in ("[", "{"):
        return False
    return '"id"' in text and any(f'"{mark}"' in text for mark in _MARKS)


def _items(path: str) -> Iterator[Any]:
    fs, inner = filesystem(path)
    with fs.open(inner, "rb") as file:
        start = file.read(_HEAD_BYTES).decode("utf-8-sig", "replace").lstrip()[:1]
        file.seek(0)
        if start == "[":
            content = file.read(_MAX_LIST_BYTES + 1)
            if len(content) > _MAX_LIST_BYTES:
                raise UserError(f"{path}: more than {_MAX_LIST_BYTES:,} bytes in one list")
            yield from json.loads(content.decode("utf-8-sig"))
            return
        for line in file:
            if line.strip():
                yield json.loads(line.decode("utf-8-sig"))


def _is_theirs(item: Any, person: Person, rows: frozenset[tuple[str, int]], ids: frozenset[str]) -> bool:
    if not isinstance(item, dict):
        return False
    data = item["data"] if isinstance(item.get("data"), dict) else item
    source, position = data.get(s.SOURCE), data.get(s.POSITION)
    if isinstance(source, str) and isinstance(position, int):
        if (source, position) in rows and (data.get(s.ID) in ids or s.ID not in data):
            return True
    elif str(data.get(s.ID)) in ids:
        return True
    return person.place_in(item) == "field"
