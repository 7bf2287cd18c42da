"""Every text of a row is in its record or its column is named as left out, whatever columns stand beside each other."""

import json

from hypothesis import given
from hypothesis import strategies as st

from ftlib.config.prepare import InputConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.shapes import _COLUMNS, resolve_shape, to_content
from ftlib.data.values import RowError

COLUMNS = [*sorted(set().union(*_COLUMNS.values()) - {s.SOURCE}), "language", "kto_tag", "note"]
TURNS = {"messages", "conversations", "conversation", "preferred_output", "non_preferred_output"}
EITHER = {"prompt", "completion", "chosen", "rejected", "input"}
CONFIG = InputConfig(paths=["x"])


def turns(name):
    role = "user" if name in ("prompt", "input") else "assistant"
    last = [{"role": role, "content": f"<{name}>"}]
    return [{"role": "user", "content": f"<{name} asks>"}, *last] if name in TURNS else last


def value_of(name, as_turns):
    if name in (s.TOOLS, "functions"):
        return [{"name": f"<{name}>"}]
    if name == "history":
        return [[f"<{name}>", "Yes."]]
    return turns(name) if as_turns else f"<{name}>"


@st.composite
def rows(draw):
    names = draw(st.sets(st.sampled_from(COLUMNS), min_size=1, max_size=7))
    row = {name: value_of(name, name in TURNS or (name in EITHER and draw(st.booleans()))) for name in sorted(names)}
    for name in ("label", "kto_tag"):
        if name in row and draw(st.booleans()):
            row[name] = draw(st.booleans())
    return row


def texts_of(content):
    parts = (content.messages, content.text, content.rejected, content.tools, content.label, content.metadata)
    return json.dumps(parts, ensure_ascii=False)


@given(rows())
def test_no_column_is_silent(row):
    try:
        content = to_content(row, resolve_shape("x", [row], CONFIG), CONFIG)
    except (UserError, RowError):
        return
    found = texts_of(content)
    for name, value in row.items():
        marks = [part for part in json.dumps(value).replace('"', "\n").splitlines() if part.startswith("<")]
        left = any(key == name or key.startswith((f"{name}.", f"{name}[")) for key in content.left_out)
        assert left or all(mark in found for mark in marks), (name, content)
