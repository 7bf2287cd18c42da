"""Files made to exhaust a reader: bounded memory, every row in one place."""

import gzip
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ftlib.config.prepare import InputConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.inputs import find_inputs
from ftlib.data.parquet_rows import _batch_rows
from ftlib.data.plan import plan_reads
from ftlib.data.read import ReadSettings, read_records
from tests.unit.test_read import KEY, lines

MB = 1 << 20
GOOD = lines({"input": "a", "output": "b"})
HEAD = b"input,output\nx,y\n"
LIMIT = 64 * 1024

FILES = {
    "newlines.jsonl.zst": (GOOD + b"\n" * 16 * MB, 1),
    "blanks.jsonl.gz": (GOOD + b"  \r\n" * 4 * MB, 1),
    "one_line.jsonl.zst": (GOOD + b"x" * 32 * MB, 2),
    "one_string.jsonl.gz": (GOOD + b'{"input": "' + b"y" * 32 * MB + b'"}\n' + GOOD, 3),
    "deep.jsonl": (GOOD + b'{"input": ' + b"[" * 50_000 + b"\n" + GOOD, 3),
    "nul.jsonl": (GOOD * 3 + b"\0" * MB + b"\n", 4),
    "newlines.csv.zst": (HEAD + b"\n" * 16 * MB, 1),
    "open_quote.csv.zst": (HEAD + b'"' + b"\n" * 16 * MB + b"a,b\n", 3),
    "open_quote_long.csv": (HEAD + b'"' + b"x" * 2 * MB + b"\nc,d\n", 3),
    "quotes.csv.zst": (HEAD + b'"' * 16 * MB, 2),
    "pairs.csv.zst": (HEAD + b'"",' * 4 * MB, 2),
    "commas.csv.zst": (HEAD + b"," * 16 * MB + b"\nc,d\n", 3),
    "carriage_returns.csv.zst": (HEAD + b"\r" * 16 * MB + b"\nc,d\n", 3),
    "columns.csv": (b",".join(b"c%d" % i for i in range(100_000)) + b",input,output\n" + b"1,2\n" * 3, None),
    "arrays.json.zst": (b"[" + b"[" * 16 * MB, 1),
    "array_newlines.json.zst": (b"[" + GOOD + b"," + b"\n" * 16 * MB, 2),
    "array_spaces.json.zst": (b"[" + GOOD + b', {"a":' + b" " * 16 * MB, 2),
    "array_string.json.zst": (b"[" + GOOD + b', {"a":"' + b'\\"' * 8 * MB, 2),
    "array_closers.json.zst": (b"[" + GOOD + b"]" + b"}" * 16 * MB, None),
    "object_lines.json.zst": (b"{\n" + b'"a": 1,\n' * 2 * MB, 1),
}


def read_all(path):
    """Rows and errors, through plan and reader, with the peak of traced memory."""
    config = InputConfig(paths=[str(path)], max_record_bytes=LIMIT, shape="input_output")
    tracemalloc.start()
    try:
        tasks = plan_reads(find_inputs([str(path)]), config, KEY)
        errors = []
        for task in tasks:
            for table in read_records(task, ReadSettings(config, KEY, 1000)):
                errors += table[s.ERROR].to_pylist()
        return errors, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", FILES)
def test_memory_is_bounded_and_no_row_is_lost(tmp_path, name):
    content, num_rows = FILES[name]
    path = tmp_path / name
    if name.endswith(".zst"):
        content = zstandard.compress(content)
    elif name.endswith(".gz"):
        content = gzip.compress(content)
    path.write_bytes(content)
    try:
        errors, peak = read_all(path)
    except UserError as error:
        assert num_rows == 1 or name.startswith(("arrays", "object", "array_closers", "columns")), error
        return
    assert peak < 96 * MB
    if num_rows is not None:
        assert len(errors) == num_rows, errors[:5]
    assert "unexpected" not in errors


def test_a_dictionary_of_one_long_value(tmp_path):
    path = tmp_path / "a.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 48, pa.int32()), pa.array(["x" * 20 * MB]))
    pq.write_table(
        pa.table({"input": text.cast(pa.string()) if False else text, "output": ["y"] * 48}), path, compression="zstd"
    )
    assert path.stat().st_size < 100_000
    before = pa.total_allocated_bytes()
    config = InputConfig(paths=[str(path)], max_record_bytes=LIMIT)
    with pytest.raises(UserError, match="too_long 48"):
        plan_reads(find_inputs([str(path)]), config, KEY)
    assert pa.total_allocated_bytes() - before < 100 * MB


def test_plain_values_that_a_dictionary_page_multiplies(tmp_path):
    """The Arrow schema says nothing of a dictionary: only the page has it."""
    path = tmp_path / "a.parquet"
    table = pa.table({"input": pa.chunked_array([pa.array(["x" * 4 * MB])] * 64), "output": ["y"] * 64})
    pq.write_table(table, path, compression="zstd")
    del table
    group = pq.ParquetFile(path).metadata.row_group(0)
    assert _batch_rows(group, ["input", "output"]) * 4 * MB <= 300 * MB
    config = InputConfig(paths=[str(path)], max_record_bytes=LIMIT)
    with pytest.raises(UserError, match="too_long 64"):
        plan_reads(find_inputs([str(path)]), config, KEY)


def test_many_broken_rows_are_all_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(HEAD + b'"open\n' * 5000 + b"fine,row\n")
    errors, peak = read_all(path)
    assert len(errors) == 5002 and errors[0] is None and errors[-1] is None
    assert peak < 96 * MB
