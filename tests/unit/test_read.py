"""Every format and shape becomes the same canonical records, wherever it is cut; every broken row is accounted for."""

import csv
import gzip
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ftlib.config.prepare import InputConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.inputs import find_inputs
from ftlib.data.plan import plan_reads
from ftlib.data.read import ReadSettings, Selection, read_records
from ftlib.data.rowmap import RowMap
from ftlib.text.keyed import KeyedHash

KEY = b"0123456789abcdef"


def read(path, rows_per_block=1000, selection=None, keep_raw=False, **config):
    """All records of one or several files, sorted by row key."""
    paths = [str(item) for item in path] if isinstance(path, list) else [str(path)]
    settings = ReadSettings(InputConfig(paths=paths, **config), KEY, rows_per_block, keep_raw)
    tasks = plan_reads(find_inputs(paths), settings.input, KEY)
    tables = [table for task in tasks for table in read_records(task, settings, selection)]
    rows = pa.concat_tables(tables).drop_columns([s.LEFT_OUT]).to_pylist() if tables else []
    return sorted(rows, key=lambda row: row[s.ROW])


def lines(*rows):
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def said(row):
    return [(message["role"], message["content"]) for message in row[s.MESSAGES]]


PAIR = [("user", "question"), ("assistant", "answer")]
MESSAGES = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]


@pytest.mark.parametrize(
    ("row", "config", "expected"),
    [
        ({"input": "question", "output": "answer"}, {}, PAIR),
        ({"instruction": "question", "output": "answer"}, {}, PAIR),
        ({"instruction": "do", "input": "this", "output": "answer"}, {}, [("user", "do\n\nthis"), PAIR[1]]),
        ({"instruction": "question", "input": "", "output": "answer"}, {}, PAIR),
        ({"instruction": "question", "response": "answer"}, {}, PAIR),
        ({"prompt": "question", "completion": "answer"}, {}, PAIR),
        ({"messages": MESSAGES}, {}, PAIR),
        ({"prompt": "question", "chosen": "answer", "rejected": "no"}, {}, PAIR),
        ({"chosen": MESSAGES, "rejected": [*MESSAGES[:1], {"role": "assistant", "content": "no"}]}, {}, PAIR),
        ({"input": "question", "output": "answer", "negative": "no"}, {}, PAIR),
        (
            {"q": "question", "a": {"b": "answer"}, "n": 3},
            {"template": {"user": "{q} {n}", "assistant": "{a.b}", "system": "be {n}"}},
            [("system", "be 3"), ("user", "question 3"), ("assistant", "answer")],
        ),
        ({"input": "question", "output": "answer"}, {"system_prompt": "brief"}, [("system", "brief"), *PAIR]),
        ({"input": 7, "output": True, "text": "x"}, {"shape": "input_output"}, [("user", "7"), ("assistant", "true")]),
    ],
)
def test_shapes(tmp_path, row, config, expected):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(row))
    (record,) = read(path, **config)
    assert record[s.ERROR] is None
    assert said(record) == expected
    if {"rejected", "negative"} & set(row):
        assert record[s.REJECTED] == "no"


def test_common_columns(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"text": "hello there", "id": 17, "subject": "Ann", "weight": 2, "metadata": {"intent": "greet", "n": [1]}}
    path.write_bytes(lines({**row, "unused": 1}, {**row, "metadata": None, "weight": None, "id": None}))
    first, second = read(path, label_column="metadata.intent")
    assert (first[s.ID], first[s.LABEL], first[s.WEIGHT], first[s.TEXT]) == ("17", "greet", 2.0, "hello there")
    assert json.loads(first[s.METADATA]) == row["metadata"]
    assert first[s.SUBJECT] == second[s.SUBJECT] == KeyedHash(KEY, "subject").hex(b"Ann")
    assert (second[s.LABEL], second[s.WEIGHT], second[s.METADATA]) == (None, 1.0, "{}")
    assert second[s.DERIVED] and len(second[s.ID]) == 24


def as_csv(rows, **options):
    out = io.StringIO()
    writer = csv.DictWriter(out, ["input", "output", "id"], **options)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=7)
    return out.getvalue()


def as_zst(rows):
    whole = lines(*rows)
    return b"".join(zstandard.compress(part) for part in (whole[:100], whole[100:]))


ROWS = [{"input": f'question {i}, "quoted"\nsecond line', "output": f"answer {i} é", "id": str(i)} for i in range(30)]


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("a.jsonl", lambda rows: lines(*rows)),
        ("a.json", lambda rows: b"\xef\xbb\xbf" + lines(*rows).replace(b"\n", b"\r\n")),
        ("a.jsonl.gz", lambda rows: gzip.compress(lines(*rows[:9])) + gzip.compress(lines(*rows[9:]))),
        ("a.jsonl.zst", as_zst),
        ("a.csv", as_csv),
        ("a.csv.gz", lambda rows: gzip.compress(as_csv(rows))),
        ("a.tsv", lambda rows: b"\xef\xbb\xbf" + as_csv(rows, delimiter="\t")),
        ("a.parquet", as_parquet),
    ],
)
def test_formats_give_the_same_records(tmp_path, name, encode):
    path = tmp_path / name
    path.write_bytes(encode(ROWS))
    records = read(path)
    assert [row[s.ID] for row in records] == [row["id"] for row in ROWS]
    assert [said(row) for row in records] == [[("user", r["input"]), ("assistant", r["output"])] for r in ROWS]
    assert not any(row[s.ERROR] for row in records)


BROKEN = [
    (b'{"input": "a", "output": ', "bad_json"),
    (b'{"input": "\xe9t\xe9", "output": "x"}', "bad_utf8"),
    (b"[1, 2]", "not_an_object"),
    (b'{"input": null, "output": "x"}', "null_text"),
    (b'{"input": {"a": [1]}, "output": "x"}', "nested_text"),
    (b'{"input": "a"}', "missing_column"),
    (b'{"input": "a", "output": "  "}', "empty_answer"),
    (b'{"input": "", "output": "x"}', "empty_input"),
    (b'{"input": "lone \\ud800 surrogate", "output": "x"}', "bad_unicode"),
    (b'{"input": "a", "output": "x", "metadata": "\\udfff"}', "bad_unicode"),
    (b'{"input": "a", "output": "x", "weight": -1}', "bad_weight"),
    (b'{"input": "a", "output": "x", "id": [1]}', "bad_id"),
    (b'{"input": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested_too_deep"),
    (b'{"input": "' + b"x" * 600_000 + b'", "output": "x"}', "too_long"),
    (b"\x00\xff\xfe garbage", "bad_utf8"),
]


def test_broken_rows_are_named_and_none_is_lost(tmp_path):
    path = tmp_path / "a.jsonl"
    good = {"input": "a question", "output": "an answer"}
    content = lines(good, *(item for raw, _ in BROKEN for item in (raw, good)))
    path.write_bytes(content)
    records = read(path, max_record_bytes=500_000)
    assert [row[s.ERROR] for row in records] == [None, *(item for _, error in BROKEN for item in (error, None))]
    hasher = KeyedHash(KEY, "content")
    for row, (raw, _) in zip(records[1::2], BROKEN, strict=True):
        position = row[s.ROW] & s.MAX_POSITION
        assert content[position : position + len(raw)] == raw
        assert row[s.CONTENT_HASH] == hasher.digest(raw + b"\n").hex()
        assert row[s.TEXT] is None and row[s.MESSAGES] is None and row[s.RAW] is None


@pytest.mark.parametrize("chunk_bytes", [64, 65, 200, 1000, 10**6])
@pytest.mark.parametrize("rows_per_block", [1, 7])
def test_the_cut_changes_nothing(tmp_path, chunk_bytes, rows_per_block):
    path = tmp_path / "a.jsonl"
    long = b'{"input": "' + b"y" * 3000 + b'", "output": "x"}'
    path.write_bytes(lines(*ROWS[:10], b"", long, b"{", *ROWS[10:]).rstrip(b"\n"))
    whole = read(path, max_record_bytes=2000)
    assert len(whole) == 32
    assert read(path, rows_per_block, max_record_bytes=2000, chunk_bytes=chunk_bytes) == whole


def test_a_ten_megabyte_line_is_not_held_in_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({"text": "a good row"}, b'{"text": "' + b"z" * 10_000_000 + b'"}', {"text": "another row"}))
    settings = ReadSettings(InputConfig(paths=[str(path)], max_record_bytes=65536), KEY, 100)
    (task,) = plan_reads(find_inputs([str(path)]), settings.input, KEY)
    tracemalloc.start()
    rows = [row for table in read_records(task, settings) for row in table.to_pylist()]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row[s.ERROR] for row in rows] == [None, "too_long", None]
    assert peak < 5_000_000


def test_csv_with_an_unclosed_quote_costs_one_row(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('input;output\nfine;one\n"never closed;two\nalso fine;three\ntoo;many;cells\n;\n')
    records = read(path)
    assert [row[s.ERROR] for row in records] == [None, "unclosed_quote", None, "too_many_cells", "empty_answer"]


def test_a_torn_archive_ends_in_quarantine(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(*ROWS))[:-30])
    records = read(path)
    assert records[-1][s.ERROR] == "truncated_file"
    assert [row[s.ERROR] for row in records[:-1]] == [None] * (len(records) - 1)


def test_keep_raw(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({"text": "x"}, b"{broken"))
    assert [row[s.RAW] for row in read(path, keep_raw=True)] == [b'{"text": "x"}\n', b"{broken\n"]


@pytest.mark.parametrize("chunk_bytes", [64, 1 << 24])
def test_selection(tmp_path, chunk_bytes):
    import numpy as np

    paths = [tmp_path / "a.jsonl", tmp_path / "b.parquet"]
    paths[0].write_bytes(lines(*ROWS))
    paths[1].write_bytes(as_parquet(ROWS))
    everything = read(paths)
    chosen = np.array([row[s.ROW] for row in everything[5::7]], dtype=np.uint64)
    taken = read(paths, selection=Selection(take=RowMap.local(chosen)), chunk_bytes=chunk_bytes)
    assert [row[s.ROW] for row in taken] == chosen.tolist()
    left = read(paths, selection=Selection(skip=(RowMap.local(chosen),)), chunk_bytes=chunk_bytes)
    assert sorted(row[s.ROW] for row in [*taken, *left]) == [row[s.ROW] for row in everything]
    assert [row for row in everything if row in taken] == taken
    some = Selection(take=RowMap.local(chosen)).without(RowMap.local(chosen[::2]))
    rest = read(paths, selection=some, chunk_bytes=chunk_bytes)
    assert [row[s.ROW] for row in rest] == chosen[1::2].tolist()


def test_ids_are_derived_from_content_and_position(tmp_path):
    ids = []
    for place in ("x", "y"):
        path = tmp_path / place / "a.jsonl"
        path.parent.mkdir()
        path.write_bytes(lines({"text": "same"}, {"text": "same"}, {"text": "other"}))
        ids.append([row[s.ID] for row in read(path)])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 3


@pytest.mark.parametrize(
    ("content", "config", "expected"),
    [
        (lines({"foo": 1, "bar": 2}), {}, "unknown shape; its columns are: bar, foo"),
        (b"not json\n" * 5, {}, "no readable record"),
        (b"\n\n  \n", {}, "no rows"),
        (lines({"q": "x"}), {"template": {"user": "{question}", "assistant": "{q}"}}, "names question.*columns are: q"),
        (lines({"text": "x"}), {"shape": "template"}, "input.template is not given"),
    ],
)
def test_unusable_files(tmp_path, content, config, expected):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=expected):
        read(path, **config)


def test_a_broken_parquet_file(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read(path)


def test_a_damaged_row_group_is_quarantined_row_by_row(tmp_path):
    path = tmp_path / "a.parquet"
    content = bytearray(as_parquet(ROWS))
    place = pq.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(1).column(0)
    start = place.dictionary_page_offset or place.data_page_offset
    content[start : start + place.total_compressed_size] = b"\xff" * place.total_compressed_size
    path.write_bytes(bytes(content))
    records = read(path)
    assert [row[s.ROW] for row in records] == list(range(30))
    assert [row[s.ERROR] for row in records] == [None] * 7 + ["unreadable_row_group"] * 7 + [None] * 16


def test_a_row_takes_the_shape_whose_columns_it_has(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"text": "plain text", "messages": None}, {"text": None, "messages": MESSAGES}, {"text": "more"}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    records = read(path)
    assert [row[s.ERROR] for row in records] == [None] * 3
    assert [row[s.TEXT] for row in records] == ["plain text", None, "more"]
    assert said(records[1]) == PAIR


def test_null_columns_count_as_absent_for_the_shape(tmp_path):
    path = tmp_path / "a.jsonl"
    empty = {"chosen": None, "rejected": None, "messages": None, "input": None}
    path.write_bytes(lines(*({"instruction": "question", "output": "answer", **empty} for _ in range(3))))
    assert [said(row) for row in read(path)] == [PAIR] * 3


@pytest.mark.parametrize("value", [b"9" * 400, b"1e308", b"-1", b"1e999", b"[1]", b'"heavy"'])
def test_no_weight_fails_the_job(tmp_path, value):
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({"text": "x"}, b'{"text": "x", "weight": ' + value + b"}"))
    assert [row[s.ERROR] for row in read(path)] == [None, "bad_weight"]
