"""Bring values of any storage type to one canonical form, so that a record does not depend on how it was stored.

In: what a JSON parser, a CSV cell, an Arrow column or a database gives. Out: text (`as_text`), the text of a key
(`as_key`: ids, labels, subjects), or JSON (`as_json`: metadata). Strings are NFC. NaN is null. A whole float or decimal
is an integer (4711.0 and 4711 are one value: a pandas column with one gap stores integers as floats). Dates, times and
UUIDs are in their ISO form, binary is UTF-8. Offsets of redactions refer to these texts.
"""

import datetime
import decimal
import json
import math
import re
import unicodedata
import uuid
from collections.abc import Mapping
from typing import Any

_WHOLE = re.compile(r"(-?)(0|[1-9][0-9]*)\.0+")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_EXACT_FLOAT = float(1 << 63)


class RowError(Exception):
    """A row that cannot become a record; `error` is its class in `quarantine.parquet`."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


def is_null(value: Any) -> bool:
    """Whether a value stands for "nothing given": null or NaN."""
    if value is None:
        return True
    # NaN alone is not what it is itself.
    return isinstance(value, (float, decimal.Decimal)) and value != value  # noqa: PLR0124


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN, or the empty text by which CSV spells null."""
    return not value if isinstance(value, str) else is_null(value)


def nfc(text: str) -> str:
    """Return the text in Unicode's composed form."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def as_text(value: Any) -> str:
    """Return a value's canonical text; raises RowError for null and for what is nested or not finite."""
    if isinstance(value, str):
        return nfc(value)
    if is_null(value):
        raise RowError("null_text")
    if isinstance(value, (list, tuple, Mapping)):
        raise RowError("nested_text")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (float, decimal.Decimal)):
        return _number_text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return nfc(bytes(value).decode("utf-8"))
        except UnicodeDecodeError:
            raise RowError("bad_utf8") from None
    # uuid.UUID, numbers and whatever else a database gives have one text.
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else str(value)


def as_key(value: Any, error: str) -> str | None:
    """Return the text that names a record, a class or a person: stripped, `4711.0` as `4711`; None for null."""
    if is_null(value):
        return None
    try:
        text = as_text(value).strip()
    except RowError:
        raise RowError(error) from None
    whole = _WHOLE.fullmatch(text) if text.endswith("0") else None
    if whole is None:
        return text
    return whole[2] if whole[2] == "0" else whole[1] + whole[2]


def as_json(value: Any) -> str:
    """Return a value as JSON with canonical strings and numbers; raises RowError where it has no JSON form."""
    try:
        text = _ENCODER.encode(value)
        # Almost every record's metadata is canonical as it stands: the walk is for the others.
        if ".0" not in text and "e+" not in text and (text.isascii() or unicodedata.is_normalized("NFC", text)):
            return text
    except (TypeError, ValueError):
        pass
    try:
        return _ENCODER.encode(canonical_json(value))
    except (TypeError, ValueError):
        raise RowError("bad_metadata") from None


def canonical_json(value: Any) -> Any:
    """Return a value as JSON knows it: canonical scalars, text as keys, null for NaN and infinity."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, Mapping):
        return _canonical_mapping(value)
    if isinstance(value, (list, tuple)):
        return [canonical_json(item) for item in value]
    if isinstance(value, (float, decimal.Decimal)):
        return _canonical_number(value)
    return _binary_text(bytes(value)) if isinstance(value, (bytes, bytearray, memoryview)) else as_text(value)


def _canonical_number(value: float | decimal.Decimal) -> int | float | str | None:
    if not math.isfinite(value):
        return None
    if value == int(value) and -_EXACT_FLOAT < value < _EXACT_FLOAT:
        return int(value)
    return float(value) if isinstance(value, float) else _number_text(value)


def _canonical_mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    names = [name if isinstance(name, str) else str(canonical_json(name)) for name in value]
    composed = [nfc(name) for name in names]
    if len(set(composed)) < len(composed):
        # Two keys that differ in composition alone: neither may take the other's place.
        composed = names
    return dict(zip(composed, (canonical_json(item) for item in value.values()), strict=True))


def _binary_text(value: bytes) -> str:
    try:
        return nfc(value.decode("utf-8"))
    except UnicodeDecodeError:
        return value.hex()


def _number_text(value: float | decimal.Decimal) -> str:
    if not math.isfinite(value):
        raise RowError("not_finite")
    if value == int(value):
        return str(int(value))
    return format(value, "f") if isinstance(value, decimal.Decimal) else repr(value)


def uuid_text(value: bytes) -> str:
    """Return the text form of a UUID's 16 bytes."""
    return str(uuid.UUID(bytes=value))
