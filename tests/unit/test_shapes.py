"""Rows of the shapes that people have, as canonical records: nothing of them is lost without being named."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftlib.config.prepare import InputConfig, PiiConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.inputs import find_inputs
from ftlib.data.leftout import UNUSUAL, LeftOut, hide_people, refuse_left_out
from ftlib.data.plan import plan_reads
from ftlib.data.read import ReadSettings, read_records
from ftlib.data.records import turns
from ftlib.data.redact import NameScanner
from ftlib.data.shapes import resolve_shape, to_content
from ftlib.data.values import RowError

QUESTION, ANSWER = "The parcel arrived late and the box was open.", "Sorry, we will send a new one."
USER, GOOD = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
SYSTEM = {"role": "system", "content": "You are a support agent."}
HISTORY = [{"role": "user", "content": "Anyone there?"}, {"role": "assistant", "content": "Yes."}]
ARGUMENTS = '{"order": "A-1001", "express": true}'
CALL = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": ARGUMENTS}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"status": "late"}', "tool_call_id": "call_1", "name": "look_up"}


def content_of(row, **config):
    config = InputConfig(paths=["x"], **config)
    return to_content(row, resolve_shape("x", [row], config), config)


def messages_of(row, **config):
    content = content_of(row, **config)
    assert not content.left_out, content.left_out
    return content.messages


def with_context(more):
    return [{"role": "user", "content": f"{QUESTION}\n\n{more}"}, GOOD]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": QUESTION, "context": "Seven.", "response": ANSWER}, with_context("Seven.")),
        ({"instruction": QUESTION, "context": "", "response": ANSWER}, [USER, GOOD]),
        ({"instruction": QUESTION, "input": "Seven.", "response": ANSWER}, with_context("Seven.")),
        ({"instruction": QUESTION, "input": "Seven.", "output": ANSWER}, with_context("Seven.")),
        ({"instruction": QUESTION, "context": "Six.", "input": "Seven.", "output": ANSWER},
         with_context("Six.\n\nSeven.")),
        ({"instruction": QUESTION, "input": "", "output": ANSWER, "system": SYSTEM["content"],
          "history": [["Anyone there?", "Yes."]]}, [SYSTEM, *HISTORY, USER, GOOD]),
        ({"instruction": QUESTION, "output": ANSWER, "history": '[["Anyone there?", "Yes."]]'},
         [*HISTORY, USER, GOOD]),
        ({"prompt": QUESTION, "completion": ANSWER, "system": SYSTEM["content"]}, [SYSTEM, USER, GOOD]),
        ({"prompt": [SYSTEM, USER], "completion": [GOOD]}, [SYSTEM, USER, GOOD]),
        ({"prompt": [USER], "completion": ANSWER}, [USER, GOOD]),
        ({"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}],
          "system": SYSTEM["content"]}, [SYSTEM, USER, GOOD]),
        ({"conversations": [USER, GOOD]}, [USER, GOOD]),
        ({"conversations": json.dumps([USER, GOOD])}, [USER, GOOD]),
        ({"conversation": [USER, GOOD], "kto_tag": True}, [USER, GOOD]),
    ],
)  # fmt: skip
def test_pairs_and_conversations(row, expected):
    assert messages_of(row) == expected


def test_sharegpt_calls_of_tools():
    row = {
        "conversations": [
            {"from": "human", "value": QUESTION},
            {"from": "function_call", "value": json.dumps({"name": "look_up", "arguments": json.loads(ARGUMENTS)})},
            {"from": "observation", "value": '{"status": "late"}'},
            {"from": "gpt", "value": ANSWER},
        ],
        "tools": json.dumps([TOOL]),
    }
    content = content_of(row)
    call = {"type": "function", "function": {"name": "look_up", "arguments": ARGUMENTS}}
    assert content.messages == [
        USER, {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": '{"status": "late"}'}, GOOD,
    ]  # fmt: skip
    assert (json.loads(content.tools), content.left_out) == ([TOOL], {})


@pytest.mark.parametrize(
    "raw",
    [
        {**CALLING},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": json.dumps([CALL])},
        {**CALLING, "tool_calls": [{**CALL, "function": {"name": "look_up", "arguments": json.loads(ARGUMENTS)}}]},
        {**CALLING, "tool_calls": [{"id": "call_1", "name": "look_up", "arguments": ARGUMENTS}], "audio": None},
    ],
)
def test_calls_of_tools_are_kept_with_arguments_as_json(raw):
    content = content_of({"messages": [USER, raw, RESULT, GOOD], "tools": [TOOL]})
    assert content.messages == [USER, CALLING, RESULT, GOOD]
    assert (json.loads(content.tools), content.left_out) == ([TOOL], {})


def test_calls_of_older_and_broken_spellings():
    older = {"role": "assistant", "content": None, "function_call": {"name": "look_up", "arguments": ARGUMENTS}}
    row = {"messages": [USER, older, {"role": "function", "name": "look_up", "content": None}, GOOD]}
    content = content_of({**row, "functions": [TOOL["function"]]})
    assert content.messages[1]["tool_calls"] == [{"type": "function", "function": CALL["function"]}]
    assert content.messages[2] == {"role": "tool", "content": "", "name": "look_up"}
    assert json.loads(content.tools) == [TOOL]
    broken = {**CALL, "function": {"name": "look_up", "arguments": '{"order": '}}
    (_, kept, *_) = messages_of({"messages": [USER, {**CALLING, "tool_calls": [broken]}, RESULT, GOOD]})
    assert kept["tool_calls"] == [broken]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # What is empty or a word for null beside another shape's columns is absent.
        ({"messages": [], "conversations": [], "tools": [], "chosen": "", "rejected": "",
          "prompt": QUESTION, "completion": ANSWER}, [USER, GOOD]),
        ({"messages": {}, "conversation": [], "instruction": QUESTION, "response": ANSWER}, [USER, GOOD]),
        # A system text beside the messages is a part of the conversation.
        ({"system": SYSTEM["content"], "messages": [USER, GOOD]}, [SYSTEM, USER, GOOD]),
        ({"system": SYSTEM["content"], "messages": [SYSTEM, USER, GOOD]}, [SYSTEM, USER, GOOD]),
        # Parts without a type, as some clouds write them.
        ({"messages": [{**USER, "content": [{"text": QUESTION}]}, GOOD]}, [USER, GOOD]),
    ],
)  # fmt: skip
def test_columns_beside_messages(row, expected):
    assert messages_of(row) == expected


def test_a_word_for_null_is_no_list_of_messages():
    content = content_of({"messages": "NULL", "conversations": "[]", "input": QUESTION, "output": ANSWER})
    assert content.messages == [USER, GOOD] and content.left_out == {"messages": 4, "conversations": 2}


def test_an_instruction_that_differs_from_the_messages_own_is_left_out_by_name():
    content = content_of({"system": "Be rude.", "messages": [SYSTEM, USER, GOOD]})
    assert content.messages == [SYSTEM, USER, GOOD] and content.left_out == {"system": 8}


def test_a_boolean_label_beside_messages_says_whether_the_answer_is_good():
    for name, shape in (("messages", [USER, GOOD]), ("conversations", [USER, GOOD])):
        good, bad = (content_of({name: shape, "label": verdict}) for verdict in (True, False))
        assert (good.messages, good.rejected, good.label) == ([USER, GOOD], None, None)
        assert (bad.messages, bad.rejected, bad.label) == ([USER], ANSWER, None)
    assert content_of({"messages": [USER, GOOD], "label": "refund"}).label == "refund"
    marked = content_of({"messages": [USER, GOOD], "label": False, "intent": "refund"}, label_column="intent")
    assert (marked.rejected, marked.label, marked.left_out) == (None, "refund", {"label": 0})


def test_prompts_of_preferences():
    pair = {"chosen": ANSWER, "rejected": "No."}
    asked = content_of({"system": SYSTEM["content"], "question": QUESTION, **pair})
    assert (asked.messages, asked.rejected, asked.left_out) == ([SYSTEM, USER, GOOD], "No.", {})
    alpaca = content_of({"instruction": QUESTION, "input": "Six.", "output": ANSWER, "negative": "No."})
    assert (alpaca.messages, alpaca.rejected) == ([*with_context("Six.")], "No.") and not alpaca.left_out
    told = content_of({"prompt": QUESTION, "history": [["Anyone there?", "Yes."]], **pair})
    assert told.messages == [*HISTORY, USER, GOOD] and not told.left_out
    assert content_of({"system": "Be brief.", "output": "x", **pair}).left_out == {"system": 9, "output": 1}


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
def test_a_text_that_points_to_a_picture_in_another_column_is_refused(kind):
    row = {"messages": [{**USER, "content": f"<{kind}> What is it?"}, GOOD], f"{kind}s": ["a.bin"]}
    with pytest.raises(RowError) as caught:
        content_of(row)
    assert caught.value.error == f"{kind}_content"
    assert content_of({**row, "messages": [USER, GOOD]}).left_out == {f"{kind}s": 5}


def test_a_message_on_columns_names_twenty_of_them():
    with pytest.raises(UserError, match=r"its columns are: c000, (.*, )c019 and 480 more\. Known are"):
        content_of({f"c{i:03}": "x" for i in range(500)})


def test_messages_quote_no_column_that_may_be_personal(tmp_path, caplog):
    personal = {"jane.roe@example.com": "x", "536-22-8741": "y"}
    with pytest.raises(UserError, match=r"its columns are: \(names with digits or signs\), a:b\. Known are"):
        content_of({"a:b": "z", **personal})
    (tmp_path / "a.jsonl").write_text(json.dumps({"input": QUESTION, "output": ANSWER, **personal}) + "\n")
    with caplog.at_level("INFO"):
        left_out_of(tmp_path / "a.jsonl")
    assert "left out: (names" in caplog.text and "jane" not in caplog.text and "8741" not in caplog.text


def test_names_of_people_are_hashed_in_what_is_left_out():
    facts = [{"source": "a", "name": name, "num_rows": 1, "share_of_text": 0.0}
             for name in ("category", "notes of Emily Rodriguez")]  # fmt: skip
    names = [row["name"] for row in hide_people(facts, NameScanner(PiiConfig(profile="fast"), b"k" * 32).name)]
    assert names[0] == "category" and names[1].startswith("key_")


def test_fields_of_messages():
    rows = [
        ({"role": "developer", "content": "Be brief."}, {"role": "developer", "content": "Be brief."}),
        ({**USER, "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c"]},
         {**USER, "content": "abc"}),
        ({**RESULT, "content": {"status": "late"}}, RESULT),
        ({**RESULT, "content": [{"n": 1}]}, {**RESULT, "content": '[{"n": 1}]'}),
        ({**GOOD, "reasoning": "Hm."}, {**GOOD, "reasoning_content": "Hm."}),
        ({**GOOD, "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": ANSWER}]},
         {**GOOD, "reasoning_content": "Hm."}),
        ({**GOOD, "weight": 0}, {**GOOD, "train": False}),
        ({**GOOD, "weight": 1, "train": True}, GOOD),
        ({**GOOD, "training": "false", "name": "bot"}, {**GOOD, "name": "bot", "train": False}),
        ({**USER, "weight": 0}, USER),
    ]  # fmt: skip
    for raw, expected in rows:
        assert messages_of({"messages": [USER, raw, GOOD]}) == [USER, expected, GOOD]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "image_content"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "audio_content"),
        ({"role": "user", "content": [{"type": "video", "video": "x"}]}, "video_content"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}, "file_content"),
        ({"role": "user", "content": [{"type": "search", "query": "x"}]}, "unknown_content_part"),
        ({"role": "user", "content": "see", "images": ["aGk="]}, "image_content"),
        ({"role": "narrator", "content": "x"}, "unknown_role"),
        ({"role": "assistant", "content": None}, "null_text"),
        ({"role": "assistant", "content": "", "tool_calls": []}, "empty_answer"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "x"}]}, "bad_tool_calls"),
        ({"role": "assistant", "content": "x", "weight": "none"}, "bad_turn_weight"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(message, error):
    with pytest.raises(RowError) as caught:
        content_of({"messages": [USER, message, GOOD]})
    assert caught.value.error == error


BAD = {"role": "assistant", "content": "No."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": QUESTION, "chosen": ANSWER, "rejected": "No."},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": QUESTION, "chosen": [USER, GOOD], "rejected": [USER, BAD], "messages": [USER, GOOD]},
        {"prompt": QUESTION, "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"input": {"messages": [USER]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
        {"input": json.dumps({"messages": [USER]}), "preferred_output": json.dumps([GOOD]),
         "non_preferred_output": json.dumps([BAD])},
        {"conversations": [{"from": "human", "value": QUESTION}], "chosen": {"from": "gpt", "value": ANSWER},
         "rejected": {"from": "gpt", "value": "No."}},
        {"input": QUESTION, "output": ANSWER, "negative": "No."},
    ],
)  # fmt: skip
def test_preferences(row):
    content = content_of(row)
    assert (content.messages, content.rejected, content.left_out) == ([USER, GOOD], "No.", {})


def test_preferences_that_a_record_cannot_hold_are_refused():
    other = [USER, BAD, {"role": "user", "content": "Why?"}, BAD]
    for row, error in (
        ({"chosen": [USER, GOOD], "rejected": other}, "prompts_differ"),
        ({"chosen": [USER, GOOD], "rejected": [USER, CALLING]}, "rejected_is_no_text"),
        ({"chosen": [USER, GOOD], "rejected": [USER, {**BAD, "content": " "}]}, "empty_answer"),
    ):
        with pytest.raises(RowError) as caught:
            content_of(row)
        assert caught.value.error == error


def test_openai_preferences_carry_tools_and_name_what_they_leave():
    row = {"input": {"messages": [USER], "tools": [TOOL], "parallel_tool_calls": True},
           "preferred_output": [GOOD], "non_preferred_output": [BAD]}  # fmt: skip
    content = content_of(row)
    assert (json.loads(content.tools), content.left_out) == ([TOOL], {"input.parallel_tool_calls": 0})


@pytest.mark.parametrize("label", [False, "False", "false"])
@pytest.mark.parametrize("prompt", [QUESTION, [USER]])
def test_an_undesirable_answer_alone_is_no_answer_to_learn(label, prompt):
    completion = "No." if isinstance(prompt, str) else [BAD]
    content = content_of({"prompt": prompt, "completion": completion, "label": label})
    assert (content.messages, content.rejected, content.label) == ([USER], "No.", None)
    good = content_of({"prompt": prompt, "completion": completion, "label": True})
    assert (good.messages, good.rejected, good.label) == ([USER, BAD], None, None)


def test_a_verdict_beside_any_shape_is_honoured():
    for row in ({"messages": [USER, BAD]}, {"instruction": QUESTION, "output": "No."},
                {"conversations": [{"from": "human", "value": QUESTION}, BAD]}):  # fmt: skip
        content = content_of(row | {"kto_tag": False})
        assert (content.messages, content.rejected, content.left_out) == ([USER], "No.", {})
    with pytest.raises(RowError, match="verdict_without_answer"):
        content_of({"text": "plain", "kto_tag": False})


def test_alpaca_preferences_ask_with_all_of_their_columns():
    row = {"instruction": QUESTION, "input": "Seven.", "system": SYSTEM["content"], "chosen": ANSWER, "rejected": "No.",
           "history": [["Anyone there?", "Yes."]]}  # fmt: skip
    content = content_of(row)
    assert (content.messages, content.rejected) == ([SYSTEM, *HISTORY, *with_context("Seven.")], "No.")
    assert not content.left_out
    whole = {"prompt": QUESTION, "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}
    assert content_of(whole).messages == [SYSTEM, USER, GOOD]
    plain = content_of({"prompt": QUESTION, "context": "Seven.", "chosen": ANSWER, "rejected": "No."})
    assert (plain.messages, plain.left_out) == ([USER, GOOD], {"context": 6})


def test_a_verdict_is_not_taken_for_a_class_in_a_file_where_few_rows_have_one():
    config = InputConfig(paths=["x"])
    rows = [{"prompt": QUESTION, "completion": "No.", "label": label} for label in (None, None, False)]
    assert resolve_shape("x", rows, config) == "prompt_completion"
    assert to_content(rows[2], "prompt_completion", config).rejected == "No."
    named = to_content({**rows[2], "label": "greeting"}, "prompt_completion", config)
    assert (named.label, named.rejected) == ("greeting", None)


def test_a_record_of_a_prepared_dataset_reads_back_as_it_is():
    record = {"messages": [USER, CALLING, RESULT, {**GOOD, "reasoning_content": "Hm.", "train": False}, USER, GOOD],
              "tools": json.dumps([TOOL]), "source": "a.jsonl", "text": None, "rejected": None}  # fmt: skip
    table = pa.Table.from_pylist([record], schema=s.RECORD).to_pylist()[0]
    content = content_of(table, shape="canonical")
    assert (content.messages, json.loads(content.tools), content.left_out) == (record["messages"], [TOOL], {})
    alone = pa.Table.from_pylist([{"messages": [USER], "rejected": "No."}], schema=s.RECORD).to_pylist()[0]
    assert content_of(alone, shape="canonical").rejected == "No."


def left_out_of(path, **config):
    config = InputConfig(paths=[str(path)], **config)
    settings = ReadSettings(config, b"k" * 16, 3)
    tables = [table for task in plan_reads(find_inputs([str(path)]), config, settings.key)
              for table in read_records(task, settings)]  # fmt: skip
    rows = [row for table in tables for row in table.to_pylist()]
    return rows, sum((LeftOut.of(table[s.LEFT_OUT].to_pylist()) for table in tables), LeftOut()).facts()


ROWS = [
    {"messages": [{**USER, "mood": "cross"}, {**GOOD, "finish_reason": "stop"}], "note": "x" * 40, "empty": None,
     "jane.roe@example.com": "y"},
    {"messages": [USER, {**GOOD, "finish_reason": "stop"}], "note": "", "empty": [], "n": 7},
] * 5  # fmt: skip


def test_what_is_not_carried_on_is_named_with_rows_and_share(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows, facts = left_out_of(path)
    assert [turns(row) for row in rows] == [[USER, GOOD]] * 10
    found = {row["name"]: (row["num_rows"], row["share_of_text"]) for row in facts}
    said = 2 * (len(QUESTION) + len(ANSWER) + len("userassistantstop")) + len("cross") + 40 + 1
    assert found == {
        "messages[].finish_reason": (10, round(8 / said, 4)),
        "messages[].mood": (5, round(5 / said, 4)),
        "note": (5, round(40 / said, 4)),
        "n": (5, 0.0),
        UNUSUAL: (5, round(1 / said, 4)),
    }
    with pytest.raises(UserError, match=r"input.strict.*note \(a.jsonl: 5 rows"):
        refuse_left_out(facts)
    refuse_left_out([])


def test_columns_of_parquet_that_are_not_read_are_counted(tmp_path):
    rows = [{"input": QUESTION, "output": ANSWER, "body": "b" * 500, "deep": [{"a": "xy", "b": 1}], "none": None}] * 4
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    _, facts = left_out_of(tmp_path / "a.parquet")
    total = len(QUESTION) + len(ANSWER) + 502
    assert facts == [
        {"source": "a.parquet", "name": "body", "num_rows": 4, "share_of_text": round(500 / total, 4)},
        {"source": "a.parquet", "name": "deep", "num_rows": 4, "share_of_text": round(2 / total, 4)},
    ]


KEYS = [
    "role",
    "from",
    "content",
    "value",
    "type",
    "text",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "weight",
    "id",
]
ANYTHING = st.recursive(
    st.none() | st.text() | st.integers() | st.booleans() | st.sampled_from(["user", "gpt", "tool", "text", "false"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


@given(ANYTHING)
def test_no_message_breaks_the_reader(message):
    """Whatever stands in messages, a row becomes a record or has a named error."""
    rows = [
        {"messages": [USER, message, GOOD]},
        {"conversations": message},
        {"prompt": message, "completion": GOOD, "label": False},
        {"chosen": message, "rejected": [message]},
        {"input": message, "preferred_output": message, "non_preferred_output": [BAD]},
        {"messages": [USER, GOOD], "tools": message},
        {"instruction": "a", "output": "b", "history": message},
    ]
    for row in rows:
        config = InputConfig(paths=["x"])
        try:
            content = to_content(row, resolve_shape("x", [row], config), config)
        except (RowError, UserError):
            continue
        pa.Table.from_pylist([{"messages": content.messages, "tools": content.tools}], schema=s.RECORD)
