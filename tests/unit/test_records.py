"""Canonical records of today's schema and of earlier versions; what a message says."""

import pyarrow as pa
import pyarrow.parquet as pq

from ftlib.data import schema as s
from ftlib.data.inspection import in_order, inspect_table, turn_order
from ftlib.data.records import conform, is_bad_answer_alone, read_records_file, said, tool_definitions, turns
from ftlib.data.sign import spoken

OLD = pa.schema(
    [
        (s.ID, pa.string()),
        (s.MESSAGES, pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        (s.TEXT, pa.string()),
    ]
)
CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": '{"order": 7}'}}
CHAT = [{"role": "user", "content": "where?"}, {"role": "assistant", "content": "there"}]
CALLING = [
    {"role": "user", "content": "where?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "{}", "tool_call_id": "call_1", "name": "look_up"},
    {"role": "assistant", "content": "there", "reasoning_content": "It is late.", "train": False},
]


def from_arrow(**values):
    return pa.Table.from_pylist([values], schema=s.RECORD).to_pylist()[0]


def test_an_earlier_versions_file_is_read_with_todays_schema(tmp_path):
    path = tmp_path / "part.parquet"
    pq.write_table(pa.Table.from_pylist([{"id": "a", "messages": CHAT}, {"id": "b", "text": "x"}], schema=OLD), path)
    table = read_records_file(str(path), None)
    assert table.schema == s.RECORD
    assert [turns(row) for row in table.to_pylist()] == [CHAT, []]
    some = read_records_file(str(path), None, [s.ID, s.TOOLS])
    assert some.to_pylist() == [{"id": "a", "tools": None}, {"id": "b", "tools": None}]
    assert conform(table) is table


def test_null_fields_are_left_out_of_turns_but_content_beside_tool_calls():
    assert turns(from_arrow(messages=CALLING)) == CALLING
    assert turns(from_arrow(messages=CHAT)) == CHAT


def test_said_is_all_text_of_a_message():
    assert [said(message) for message in from_arrow(messages=CALLING)["messages"]] == [
        "where?", 'look_up {"order": 7}', "{}", "It is late.\nthere",
    ]  # fmt: skip


def test_an_undesirable_answer_alone_is_spoken_and_a_worse_answer_is_not():
    alone = from_arrow(messages=CHAT[:1], rejected="nowhere")
    pair = from_arrow(messages=CHAT, rejected="nowhere")
    assert (is_bad_answer_alone(alone), is_bad_answer_alone(pair)) == (True, False)
    assert not is_bad_answer_alone(from_arrow(text="good", rejected="bad"))
    assert (spoken(alone), spoken(pair)) == (["where?", "nowhere"], ["where?", "there"])


def test_tool_definitions_are_parsed():
    tools = '[{"type": "function", "function": {"name": "look_up"}}]'
    assert tool_definitions(from_arrow(messages=CHAT, tools=tools)) == [
        {"type": "function", "function": {"name": "look_up"}}
    ]
    assert tool_definitions(from_arrow(messages=CHAT)) is None


def test_turns_with_tools_and_with_an_undesirable_answer_alone_are_in_order():
    for roles in (
        ["developer", "user", "assistant"],
        ["user", "assistant", "tool", "tool", "assistant", "user", "assistant"],
        ["user", "assistant", "tool", "assistant", "tool", "assistant"],
    ):
        assert in_order(turn_order(roles))
    for roles in (["user", "assistant", "assistant"], ["user", "user", "assistant", "tool", "assistant"], ["user"]):
        assert not in_order(turn_order(roles))
    alone = {s.ERROR: None, s.ROW: 0, s.SOURCE: "a", **from_arrow(messages=CHAT[:1], rejected="nowhere")}
    found = inspect_table(pa.Table.from_pylist([alone], schema=s.READ), "annotations")
    assert found.turns == {("user", "assistant"): 1}
