"""Files made to exhaust a reader: bounded memory, every row in one place."""

import gzip
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.config.prepare import InputConfig
from ftlib.core.errors import UserError
from ftlib.data import schema as s
from ftlib.data.arrow_size import least_json_bytes
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


def zeros(num_values):
    return pa.array([0], pa.int8()).take(pa.array(np.zeros(num_values, np.int32)))


def column(lists):
    """Two rows of metadata, of which the first is what the attack repeats."""
    ends = pa.array([0, len(lists) - 1, len(lists)], pa.int32())
    return pa.StructArray.from_arrays([pa.ListArray.from_arrays(ends, lists)], ["v"])


REPEATED = {
    "numbers": lambda: column(zeros(3_000_000)),
    "nulls": lambda: column(pa.nulls(3_000_000)),
    "objects_of_nulls": lambda: column(
        pa.StructArray.from_arrays([pa.nulls(1_000_000, pa.string())] * 2, ["role", "content"])
    ),
    "empty_lists": lambda: column(
        pa.ListArray.from_arrays(pa.array(np.zeros(2_000_001, np.int32)), pa.array([], pa.string()))
    ),
    "texts": lambda: column(
        pa.DictionaryArray.from_arrays(pa.array([0] * 3_000 + [1], pa.int32()), ["x" * MB, "y"])
    ),
    "maps": lambda: pa.MapArray.from_arrays(
        pa.array([0, 1_000_000, 1_000_001], pa.int32()),
        pa.array(["k"]).take(pa.array(np.zeros(1_000_001, np.int32))), zeros(1_000_001),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPEATED)
def test_a_row_that_repeats_one_value_without_end(tmp_path, name):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"input": ["a", "b"], "output": ["c", "d"], "metadata": REPEATED[name]()}), path)
    assert path.stat().st_size < MB
    errors, peak = read_all(path)
    assert errors == ["too_long", None]
    assert peak < 16 * MB


ARROW_VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.text(max_size=5))),
    st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(-9, 9)), max_size=4))),
    st.lists(st.one_of(st.none(), st.fixed_dictionaries({"a": st.booleans() | st.none(), "é": st.text(max_size=3)}))),
    st.lists(st.none() | st.floats(width=32)),
)


@given(ARROW_VALUES)
@settings(deadline=None)
def test_the_least_size_of_a_row_is_never_more_than_its_json(values):
    array = pa.array(values)
    forms = [array, array.dictionary_encode()] if array.type == pa.string() else [array]
    for form in forms:
        for i, value in enumerate(values):
            written = json.dumps(value, ensure_ascii=False).encode()
            assert least_json_bytes(form.slice(i, 1)) <= len(written)


def test_equal_long_rows_have_one_hash_and_others_another(tmp_path):
    def digests(values):
        path = tmp_path / "a.parquet"
        pq.write_table(
            pa.table({"input": ["a"] * len(values), "output": ["b"] * len(values), "metadata": values}), path
        )
        config = InputConfig(paths=[str(path)], max_record_bytes=LIMIT)
        (task,) = plan_reads(find_inputs([str(path)]), config, KEY)
        (table,) = read_records(task, ReadSettings(config, KEY, 1000))
        assert table[s.ERROR].to_pylist()[1:] == ["too_long"] * (len(values) - 1)
        return table[s.CONTENT_HASH].to_pylist()[1:]

    long = [{"v": [1] * 400_000}, {"v": [1] * 400_000}, {"v": [1] * 399_999 + [2]}]
    first, same, other = digests([{"v": [1]}, *long])
    assert first == same != other
    assert digests([{"v": [1]}, long[2], long[0]]) == [other, first]
