"""Values in a record's metadata by which rows are ordered, grouped or aged: read from the raw record, kept as numbers.

In: a record's `metadata` (JSON) and a dotted path. Out: a time in seconds since 1970 (UTC), or a value's canonical form
for hashing. What is absent or no date gives None: such rows are neither old nor new.
"""

import datetime
import json
import math
from typing import Any

_MILLISECONDS_FROM = 1e11
"""Numbers from here on are milliseconds: as seconds they would lie beyond the year 5138."""


def value_at(metadata: Any, path: str) -> Any:
    """The value at a dotted path (`customer.region`), or None. A key that holds dots itself is found too."""
    if isinstance(metadata, dict):
        if path in metadata:
            return metadata[path]
        head, _, rest = path.partition(".")
        if rest and head in metadata:
            return value_at(metadata[head], rest)
    return None


def to_seconds(value: Any) -> int | None:
    """Seconds since 1970 (UTC) of an ISO 8601 date or time, or of a Unix time in seconds or milliseconds."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            return None
        return int(value / 1000 if abs(value) >= _MILLISECONDS_FROM else value)
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return math.floor(moment.timestamp())


def canonical(value: Any) -> bytes | None:
    """A value as bytes, the same for equal values; None for null and the empty string."""
    if value is None or value == "":
        return None
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
