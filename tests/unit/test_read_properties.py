"""Tables with hostile cells, written by many writers in many encodings, come out cell for cell, or in quarantine."""

import contextlib
import csv
import io
import json
import unicodedata

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ftlib.config.prepare import InputConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.inputs import find_inputs
from ftlib.data.plan import plan_reads
from ftlib.data.read import ReadSettings, read_records

KEY = b"0123456789abcdef"
COLUMNS = ["input", "output", "label"]
HOSTILE = [
    '"', '""', 'a 5" pipe', '"quoted"', "it's", ",", ";", "\t", "|", ", ", '","', "\n", "\r\n", "\r", "\n\n", "\\",
    "\\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\ufeff", "\u00a0", " ", "   ", "",
    "=1+1", "#", "é", "e\u0301", "Größe", "你好，世界", "日本語", "😀", "👩‍👩‍👧", "\u200b", "عربى", "\u0303",
    "null", "nan", "1.0", "0042",
]  # fmt: skip
plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
cell = st.lists(st.one_of(st.sampled_from(HOSTILE), plain), max_size=5).map("".join)
table = st.lists(st.lists(cell, min_size=3, max_size=3), min_size=1, max_size=8)
many = settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))


def canonical(text):
    return unicodedata.normalize("NFC", text).strip()


def read(path, **config):
    """Rows of (question, answer, label) or the error, through plan and reader."""
    config = InputConfig(paths=[str(path)], template={"user": "{input}", "assistant": "{output}"}, **config)
    tasks = plan_reads(find_inputs([str(path)]), config, KEY)
    rows = pa.concat_tables(
        t for task in tasks for t in read_records(task, ReadSettings(config, KEY, 1000))
    ).to_pylist()
    assert [row[s.ROW] for row in rows] == sorted(row[s.ROW] for row in rows)
    return [row[s.ERROR] or (*(m["content"] for m in row[s.MESSAGES]), row[s.LABEL] or "") for row in rows]


def label_text(text):
    """An empty label is none; a whole number has no fraction."""
    text = canonical(text)
    head, dot, tail = text.partition(".")
    whole = head.lstrip("-").isdecimal() and head.isascii() and dot and tail and not tail.strip("0")
    return head if whole and (head.lstrip("-") == "0" or not head.lstrip("-").startswith("0")) else text


def check(path, rows, **config):
    found = read(path, **config)
    assert len(found) == len(rows), (found, rows)
    for got, (question, answer, label) in zip(found, rows, strict=True):
        if not answer.strip():
            assert got == "empty_answer"
        elif not question.strip():
            assert got == "empty_input"
        else:
            assert got == (canonical(question), canonical(answer), label_text(label))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


class Semicolons(csv.excel):
    delimiter = ";"


class Pipes(csv.unix_dialect):
    delimiter = "|"


csv.register_dialect("semicolons", Semicolons)
csv.register_dialect("pipes", Pipes)
csv.register_dialect("old_mac", csv.excel, lineterminator="\r")
csv.register_dialect("linux", csv.excel, lineterminator="\n")
DIALECTS = ["excel", "excel-tab", "unix", "semicolons", "pipes", "old_mac", "linux"]
QUOTINGS = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dialect", DIALECTS)
@given(table, st.sampled_from(QUOTINGS))
@many
def test_python_csv(folder, dialect, encoding, rows, quoting):
    out = io.StringIO(newline="")
    writer = csv.writer(out, dialect, quoting=quoting)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    path = folder / "python.csv"
    path.write_bytes(out.getvalue().encode(encoding))
    if dialect == "old_mac":
        # A writer that leaves a line feed bare in a file of carriage returns has lost the row already.
        assume(list(csv.reader(io.StringIO(out.getvalue(), newline=""), dialect))[1:] == rows)
    check(path, rows)


@pytest.mark.parametrize("quoting", [csv.QUOTE_NONE, csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@given(table)
@many
def test_backslash_escapes(folder, quoting, rows):
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=quoting, escapechar="\\", doublequote=False, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    path = folder / "escaped.csv"
    path.write_bytes(out.getvalue().encode())
    check(path, rows, csv_backslash=True)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(table, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["\n", "\r\n"]))
@many
def test_pandas(folder, encoding, rows, separator, end):
    path = folder / "pandas.csv"
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame.to_csv(path, sep=separator, index=False, encoding=encoding, lineterminator=end)
    check(path, rows)


@given(table, st.sampled_from([",", ";", "\t"]))
@many
def test_pyarrow(folder, rows, separator):
    path = folder / "pyarrow.csv"
    columns = {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}
    pa.csv.write_csv(pa.table(columns), path, pa.csv.WriteOptions(delimiter=separator))
    check(path, rows)


@pytest.mark.parametrize(
    ("separator", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (",", "utf-8"), (";", "cp1252")]
)
@given(table)
@many
def test_spreadsheet(folder, separator, encoding, rows):
    """As spreadsheets save: CRLF between rows, LF inside of cells, quotes only where they are needed."""
    rows = [[cell.replace("\r", "") for cell in row] for row in rows]
    rows = [[cell.encode(encoding, "ignore").decode(encoding) for cell in row] for row in rows]

    def quoted(cell):
        return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in f'"\n{separator}') else cell

    lines = [separator.join(map(quoted, row)) for row in [COLUMNS, *rows]]
    path = folder / "sheet.csv"
    path.write_bytes(("\r\n".join(lines) + "\r\n").encode(encoding))
    check(path, rows, **({"encoding": encoding} if encoding == "cp1252" else {}))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
@given(table, st.booleans())
@many
def test_json_arrays(folder, indent, encoding, rows, ascii_only):
    path = folder / "array.json"
    text = json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows], indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode(encoding))
    found = read(path)
    assert len(found) == len(rows)
    for got, (question, answer, label) in zip(found, rows, strict=True):
        if answer.strip() and question.strip():
            wanted = (unicodedata.normalize("NFC", question), unicodedata.normalize("NFC", answer), label_text(label))
            assert got == wanted


@given(table)
@many
def test_jsonl_and_parquet_agree(folder, rows):
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    pq.write_table(pa.Table.from_pylist(records), folder / "a.parquet")
    assert read(folder / "a.jsonl") == read(folder / "a.parquet")


@given(st.binary(max_size=300), st.sampled_from(["csv", "tsv", "jsonl", "json"]))
@many
def test_no_bytes_end_in_a_traceback(folder, content, ending):
    path = folder / f"any.{ending}"
    path.write_bytes(b"input,output\n" + content if ending in ("csv", "tsv") else content)
    with contextlib.suppress(UserError):
        read(path)
