"""JSON in texts: every literal is found at its place, and nothing else."""

import json

from hypothesis import given
from hypothesis import strategies as st

from ftlib.text.json_text import find_json, is_json, leaves, pointer

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def flat(value, path=()):
    """Path and value of every string and number, and path of every key: an oracle that parses with json alone."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key), "key", key
            yield from flat(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from flat(item, (*path, i))
    elif isinstance(value, str):
        yield path, "string", value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, "number", json.dumps(value)


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_leaves_are_those_of_a_parser_and_their_places_are_right(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert is_json(text)
    found = list(leaves(text))
    assert [(leaf.path, leaf.kind, leaf.value) for leaf in found] == list(flat(value))
    for leaf in found:
        assert json.loads(text[leaf.start : leaf.end]) == (
            json.loads(leaf.value) if leaf.kind == "number" else leaf.value
        )
        if leaf.kind != "number":
            places = leaf.places(text)
            assert len(places) == len(leaf.value) + 1
            for i, character in enumerate(leaf.value):
                assert json.loads('"' + text[places[i] : places[i + 1]] + '"') == character


def test_json_is_found_inside_other_text():
    body = '{"a": [1, "x{y}"], "b": {}}'
    text = f'Call: <tool_call>{body}</tool_call> and\n```json\n["q"]\n```\n{{broken "x" [ {{"unclosed": 1'
    assert [text[start:end] for start, end in find_json(text)] == [body, '["q"]']
    assert find_json("a set {1, 2}, a footnote [1] and a phone [555] 123") == []
    assert find_json("[" * 100_000) == [] and find_json('{"a":' * 5_000) == []
    assert len(find_json('{"a"' * 200_000)) == 0


def test_pointers_are_those_of_the_standard():
    assert pointer(("a/b", 0, "m~n")) == "/a~1b/0/m~0n"
