"""Real files: dialects, encodings, layouts of JSON, Arrow types, side files; every row has its value."""

import datetime
import decimal
import gzip
import json
import logging
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ftlib.config.prepare import InputConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.broken import BrokenRows
from ftlib.data.inputs import find_inputs
from ftlib.data.plan import plan_reads
from ftlib.data.read import ReadSettings, group_tasks, read_group
from ftlib.text.keyed import KeyedHash
from tests.unit.test_read import KEY, lines, read, said

GOOD = {"input": "a question", "output": "an answer"}


def pairs(path, **config):
    """(question, answer) of each row, or its error."""
    return [row[s.ERROR] or tuple(m["content"] for m in row[s.MESSAGES]) for row in read(path, **config)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("mark", [",", "\t", ";", "|"])
def test_an_inch_mark_is_no_quote(tmp_path, mark):
    rows = [
        ('The 5" pipe leaks.', "fixed"),
        ("plain", "text"),
        ('A 6" pipe', 'and 7" more'),
        ("x", '"'),
        ("last", "row"),
    ]
    content = "".join(mark.join(row) + "\n" for row in [("input", "output"), *rows])
    found = pairs(write(tmp_path / "a.csv", content))
    assert found[:3] == rows[:3] and found[4] == rows[4]
    assert found[3] == "unclosed_quote"


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_only_line_feeds_end_a_record(tmp_path, end, quote):
    content = f"input,output\nfirst,{quote}one half{end}other half{quote}\nsecond,answer\n"
    assert pairs(write(tmp_path / "a.csv", content)) == [("first", f"one half{end}other half"), ("second", "answer")]


def test_carriage_returns_alone_end_records_where_nothing_else_does(tmp_path):
    content = 'input,output\rone,"two\nlines"\rthree,"a ""word"""\r'
    assert pairs(write(tmp_path / "a.csv", content)) == [("one", "two\nlines"), ("three", 'a "word"')]


def test_an_open_quote_costs_its_own_line(tmp_path):
    content = 'input,output\nfine,one\n"never closed,two\nthree,"a cell\nof two lines"\n"four",five\n"six,seven\n'
    assert pairs(write(tmp_path / "a.csv", content)) == [
        ("fine", "one"), "unclosed_quote", ("three", "a cell\nof two lines"), ("four", "five"), "unclosed_quote",
    ]  # fmt: skip


@pytest.mark.parametrize("compression", ["", ".gz"])
def test_an_open_quote_before_more_than_the_limit(tmp_path, compression):
    content = 'input,output\n"open,x\n' + "".join(f"q{i},{'y' * 50}\n" for i in range(200))
    path = tmp_path / f"a.csv{compression}"
    write(path, gzip.compress(content.encode()) if compression else content)
    assert pairs(path, max_record_bytes=1024) == ["unclosed_quote", *((f"q{i}", "y" * 50) for i in range(200))]


@pytest.mark.parametrize("cell", ["z" * 5000, "a line\n" * 900, 'a ""word"" and\n' * 400])
def test_a_record_beyond_the_limit_is_one_row_with_its_hash(tmp_path, cell):
    long = f'"{cell}",x\n'
    path = write(tmp_path / "a.csv", f"input,output\nbefore,1\n{long}after,2\n")
    before, row, after = read(path, max_record_bytes=1024, keep_raw=True)
    assert [before[s.ERROR], row[s.ERROR], after[s.ERROR]] == [None, "too_long", None]
    assert row[s.CONTENT_HASH] == KeyedHash(KEY, "content").digest(long.encode()).hex()
    assert row[s.RAW] == long.encode()[:1024]


def test_cells_longer_than_csv_allows_by_itself(tmp_path):
    content = "input,output\n" + "x" * 200_000 + ",short\n"
    assert pairs(write(tmp_path / "a.csv", content)) == [("x" * 200_000, "short")]


def test_headers_of_all_kinds(tmp_path):
    content = '\ufeff\n\r\n,"input",output,input,\n0,question,answer,second,x\n'
    (record,) = read(
        write(tmp_path / "a.csv", content), template={"user": "{input.2}", "assistant": "{column_5}{column_1}"}
    )
    assert said(record) == [("user", "second"), ("assistant", "x0")]


def test_the_delimiter_is_that_of_the_rows(tmp_path):
    content = '"name, full";input;output\n"A, B";one, two;three\nC;four;five, six\n'
    assert pairs(write(tmp_path / "a.csv", content)) == [("one, two", "three"), ("four", "five, six")]
    texts = [row[s.TEXT] for row in read(write(tmp_path / "b.csv", "text\nhello, world\na; b, c\n"))]
    assert texts == ["hello, world", "a; b, c"]


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "SEP=;\r\n\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_line_by_which_spreadsheets_tell_the_delimiter(tmp_path, first, start):
    content = start + (first + "input;output\na, b;x, y\nc, d;z, w\n").encode()
    assert pairs(write(tmp_path / "a.csv", content)) == [("a, b", "x, y"), ("c, d", "z, w")]


def test_backslashes_escape_where_the_file_says_so(tmp_path):
    escaped = 'input,output\n"say \\"hi\\", please",one\nC:\\\\new,two\n'
    assert pairs(write(tmp_path / "a.csv", escaped)) == [('say "hi", please', "one"), ("C:\\new", "two")]
    plain = 'input,output\n"say ""hi""\\",one\nC:\\new,two\n'
    assert pairs(write(tmp_path / "b.csv", plain)) == [('say "hi"\\', "one"), ("C:\\new", "two")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_encodings_with_a_byte_order_mark(tmp_path, encoding, ending):
    row = {"input": "Größe 你好 😀", "output": "naïve"}
    text = {
        "csv": f"input,output\r\n{row['input']},{row['output']}\r\n",
        "jsonl": json.dumps(row, ensure_ascii=False) + "\n",
        "json": json.dumps([row], ensure_ascii=False, indent=1),
    }[ending]
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    assert pairs(write(tmp_path / f"a.{ending}", (mark + text).encode(encoding))) == [tuple(row.values())]


@pytest.mark.parametrize(
    ("encoding", "text", "likely"),
    [
        ("cp1252", "Größe für Übergang", "cp1252"),
        ("cp1251", "привет мир как дела сегодня", "cp1251"),
        ("shift_jis", "これは日本語のテストです", "cp932|shift_jis"),
        ("utf-16-le", "hello there", "utf-16-le"),
        ("utf-16-be", "hello there", "utf-16-be"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_another_encoding_is_refused_by_name_and_read_with_it(tmp_path, encoding, text, likely, ending):
    rows = [(f"{text} {i}", text) for i in range(12)]
    content = "input,output\n" + "".join(f"{a},{b}\n" for a, b in rows)
    if ending == "jsonl":
        content = "".join(json.dumps({"input": a, "output": b}, ensure_ascii=False) + "\n" for a, b in rows)
    path = write(tmp_path / f"a.{ending}", content.encode(encoding))
    with pytest.raises(UserError, match=f"a.{ending}: not UTF-8.*input.encoding=({likely})") as refused:
        read(path)
    assert ending == "jsonl" or "JSON" not in str(refused.value)
    assert pairs(path, encoding=encoding) == rows


def test_four_of_ten_rows_in_another_encoding(tmp_path):
    rows = [b'{"text": "gr\xfc\xdfe %d"}\n' % i if i < 4 else b'{"text": "plain %d"}\n' % i for i in range(10)]
    with pytest.raises(UserError, match=r"4 of its first 10 lines are not UTF-8.*cp1252"):
        read(write(tmp_path / "a.jsonl", b"".join(rows)))


@pytest.mark.parametrize("name", ["utf-99", "rot13", "base64", "idna", "unicode_escape", "a\0b"])
def test_encodings_that_are_none(name):
    with pytest.raises(ValueError, match="encoding"):
        InputConfig(paths=["a"], encoding=name)


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
def test_json_arrays(tmp_path, indent, name):
    content = json.dumps([GOOD] * 5, indent=indent).encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    assert pairs(path) == [tuple(GOOD.values())] * 5


def test_other_layouts_of_json(tmp_path):
    good = tuple(GOOD.values())
    rows = [json.dumps(GOOD) for _ in range(4)]
    assert pairs(write(tmp_path / "lines.json", "[\n" + ",\n".join(rows) + "\n]\n")) == [good] * 4
    assert pairs(write(tmp_path / "one.json", json.dumps(GOOD, indent=4))) == [good]
    assert pairs(write(tmp_path / "several.json", "\n".join(json.dumps(GOOD, indent=2) for _ in rows))) == [good] * 4
    rows[1] = rows[1].replace('"a question"', '"a question')
    assert pairs(write(tmp_path / "broken.json", "[\n" + ",\n".join(rows) + "\n]\n")) == [good, "bad_json", good, good]
    whole = json.dumps([GOOD] * 4)
    assert pairs(write(tmp_path / "cut.json", whole[:-20])) == [good] * 3 + ["truncated_file"]
    assert pairs(write(tmp_path / "cut2.json", "[\n" + ",\n".join(rows[2:]) + ",\n")) == [good] * 2 + ["truncated_file"]
    with pytest.raises(UserError, match="lie in the list 'data'"):
        read(write(tmp_path / "wrapped.json", json.dumps({"data": [GOOD] * 3, "version": "1"})))


@pytest.mark.parametrize("cut", [1, 5, 0.75])
def test_a_cut_archive_says_so(tmp_path, cut):
    parts = [zstandard.compress(lines(*({**GOOD, "id": i} for i in range(n, n + 50)))) for n in (0, 50)]
    content = b"".join(parts)
    path = write(tmp_path / "a.jsonl.zst", content[: int(len(content) * cut) if isinstance(cut, float) else -cut])
    assert read(path)[-1][s.ERROR] == "truncated_file"


def test_a_cut_behind_a_line_is_seen(tmp_path):
    packer = zstandard.ZstdCompressor().compressobj()
    content = packer.compress(lines(*[GOOD] * 50)) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    assert pairs(write(tmp_path / "a.jsonl.zst", content)) == [tuple(GOOD.values())] * 50 + ["truncated_file"]
    content = zstandard.compress(lines(*[GOOD] * 50)) + b"garbage"
    assert pairs(write(tmp_path / "b.jsonl.zst", content)) == [tuple(GOOD.values())] * 50 + ["truncated_file"]
    with pytest.raises(UserError, match="truncated_file"):
        read(write(tmp_path / "c.jsonl.zst", lines(GOOD)))


MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5)
IDENTITY = uuid.UUID(int=5)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["a"]).dictionary_encode(), "a"),
        (pa.array([b"caf\xc3\xa9"]), "caf\u00e9"),
        (pa.array([b"x"], pa.large_binary()), "x"),
        (pa.array(["x"], pa.large_string()), "x"),
        (pa.array(["x"], pa.string_view()), "x"),
        (pa.array([IDENTITY.bytes], pa.uuid()), str(IDENTITY)),
        (pa.array([IDENTITY.bytes], pa.binary(16)), str(IDENTITY)),
        (pa.array([MOMENT]), "2024-01-02T03:04:05"),
        (pa.array([MOMENT.date()]), "2024-01-02"),
        (pa.array([MOMENT.time()]), "03:04:05"),
        (pa.array([1], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
        (pa.array([2**62], pa.timestamp("us")), None),
        (pa.array([decimal.Decimal("4711.00")]), "4711"),
        (pa.array([decimal.Decimal("47.10")]), "47.10"),
        (pa.array([4711.0]), "4711"),
        (pa.array([4711], pa.uint16()), "4711"),
        (pa.array([True]), "true"),
        (pa.array([1.5], pa.float16()), "1.5"),
    ],
)
def test_columns_of_any_type_as_id_label_and_text(tmp_path, array, expected):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": array, "id": array, "label": array}), path)
    (row,) = read(path)
    assert row[s.ERROR] is None
    assert row[s.ID] == row[s.LABEL] == row[s.TEXT]
    assert expected is None or row[s.TEXT] == expected


def test_maps_and_structs_as_metadata(tmp_path):
    path = tmp_path / "a.parquet"
    kind = pa.map_(pa.string(), pa.struct([("n", pa.float64()), ("when", pa.date32())]))
    metadata = pa.array([[("intent", {"n": 3.0, "when": MOMENT.date()})], None], kind)
    pq.write_table(pa.table({"text": ["a", "b"], "metadata": metadata}), path)
    first, second = read(path, label_column="metadata.intent.when")
    assert json.loads(first[s.METADATA]) == {"intent": {"n": 3, "when": "2024-01-02"}}
    assert (first[s.LABEL], second[s.LABEL], second[s.METADATA]) == ("2024-01-02", None, "{}")
    pairs_twice = pa.array([[("k", "1"), ("k", "2")]], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"text": ["a"], "metadata": pairs_twice}), path)
    assert json.loads(read(path)[0][s.METADATA]) == [["k", "1"], ["k", "2"]]


def test_a_dictionary_does_not_make_its_rows_long(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"text {i} " + "x" * 1200 for i in range(4000)]
    pq.write_table(pa.table({"text": pa.array(texts).dictionary_encode()}), path)
    rows = read(path)
    assert [row[s.TEXT] for row in rows] == texts


def test_long_parquet_rows_have_a_hash_each(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 3000, "b" * 3000, "fine"]}), path)
    first, second, third = read(path, max_record_bytes=1024)
    assert [first[s.ERROR], second[s.ERROR], third[s.ERROR]] == ["too_long", "too_long", None]
    content = json.dumps({"text": "a" * 3000}).encode()
    assert first[s.CONTENT_HASH] == KeyedHash(KEY, "content").digest(content).hex() != second[s.CONTENT_HASH]


def test_files_beside_the_data_are_passed_over(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("ftlib"), "propagate", True)
    for name in ("dataset_info.json", "README.md", "notes.txt", "settings.json", "state.json"):
        write(tmp_path / name, json.dumps({"description": "", "features": {"input": {"dtype": "string"}}}, indent=2))
    for name in ("a.jsonl", "b.jsonl", ".b.jsonl.crc", "_metadata"):
        write(tmp_path / name, lines(GOOD))
    config = InputConfig(paths=[str(tmp_path)])
    caplog.set_level(logging.INFO)
    for paths in ([str(tmp_path)], [str(tmp_path / "*")]):
        assert {task.source for task in plan_reads(find_inputs(paths), config, KEY)} == {"a.jsonl", "b.jsonl"}
    assert "dataset_info.json" in caplog.text and "settings.json" in caplog.text
    named = [str(tmp_path), str(tmp_path / "dataset_info.json")]
    with pytest.raises(UserError, match=r"dataset_info.json: unknown shape"):
        plan_reads(find_inputs(named), config, KEY)


def test_a_bracket_in_a_folders_name(tmp_path):
    write(tmp_path / "[2024] final" / "a.jsonl", lines(GOOD))
    assert [file.source for file in find_inputs([str(tmp_path / "[2024] final" / "*.jsonl")])] == ["a.jsonl"]
    with pytest.raises(UserError, match=r"a bracket itself is written \[\[\]"):
        find_inputs([str(tmp_path / "[2025] final" / "*.jsonl")])


def test_small_files_are_read_together(tmp_path):
    for i in range(600):
        write(tmp_path / f"{i}.jsonl", lines({"text": f"record {i}"}))
    config = InputConfig(paths=[str(tmp_path)])
    tasks = plan_reads(find_inputs([str(tmp_path)]), config, KEY)
    groups = group_tasks(tasks, 1000)
    assert [task for group in groups for task in group] == tasks and len(groups) == 2
    tables = list(read_group(groups[0], ReadSettings(config, KEY, 100)))
    assert [table.num_rows for table in tables] == [100] * 5 + [12]
    large = write(tmp_path / "large.jsonl", lines(*[{"text": "x" * 1000}] * 3000))
    tasks = plan_reads(find_inputs([str(large)]), InputConfig(paths=[str(large)], chunk_bytes=1 << 20), KEY)
    assert len(group_tasks(tasks, 1000)) == len(tasks) == 3


def test_reasons_with_their_first_place(tmp_path):
    path = write(tmp_path / "a.jsonl", b"nonsense\n" * 3 + b'{"text": ""}\n')
    rows = read(path, shape="text")
    found = BrokenRows()
    found.add(pa.Table.from_pylist(rows, schema=s.READ))
    text = BrokenRows.merge([found, found]).describe()
    assert text == "bad_json 6 (first in a.jsonl at 0), empty_text 2 (first in a.jsonl at 27)"
    with pytest.raises(UserError, match=r"bad_json 3 \(first at 0\)"):
        read(write(tmp_path / "b.jsonl", b"nonsense\n" * 3))


@pytest.mark.parametrize(
    "value", ["1" * 400, "1e999", "1e308", "NaN", "-Infinity", "[[[]]]", '{"a": null}', '"\\ud800"']
)
@pytest.mark.parametrize("column", ["input", "id", "label", "subject", "weight", "metadata", "language"])
def test_no_value_in_any_column_fails_the_job(tmp_path, value, column):
    row = json.dumps({**GOOD, column: 0}).replace(f'"{column}": 0', f'"{column}": {value}')
    first, second = read(write(tmp_path / "a.jsonl", lines(GOOD, row.encode())))
    assert first[s.ERROR] is None and second[s.ERROR] != "unexpected"
