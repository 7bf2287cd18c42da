"""How long a row of Arrow is as JSON at least, and its hash, without a Python object for any of its values.

Parquet stores what repeats once: a file of 1 KB can hold a list of a hundred million zeros in a single row, or one that
names a text of 20 MB a thousand times. Such a row is known to be too long before its values are made.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_SEPARATOR, _NULL, _SHORTEST = 2, 4, 1


def least_json_bytes(array: pa.Array) -> int:
    """Bytes that `json.dumps` needs at least for the values of an array, or more; never more than it takes."""
    kind = array.type
    num_nulls: int = array.null_count
    num_values = len(array) - num_nulls
    size = _NULL * num_nulls
    if pa.types.is_dictionary(kind):
        return size + _dictionary_bytes(array)
    if _is_text(kind):
        return size + 2 * num_values + int(pc.sum(pc.binary_length(array)).as_py() or 0)
    if pa.types.is_map(kind):
        first, last = array.offsets[0].as_py(), array.offsets[-1].as_py()
        items = array.items.slice(first, last - first)
        return size + 2 * num_values + 4 * len(items) + least_json_bytes(items)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        items = array.flatten()
        return size + max(2 * num_values, _SEPARATOR * (len(items) - num_values)) + least_json_bytes(items)
    if pa.types.is_struct(kind):
        names = sum(len(field.name.encode()) + 4 for field in kind)
        # Null as a whole, its fields are not written.
        fields = (array.drop_null() if num_nulls else array).flatten()
        return size + num_values * names + sum(map(least_json_bytes, fields))
    return size + _SHORTEST * num_values


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string))


def _dictionary_bytes(array: pa.DictionaryArray) -> int:
    num_values: int = len(array) - array.null_count
    if not _is_text(array.type.value_type):
        return _SHORTEST * num_values
    lengths = pc.take(pc.binary_length(array.dictionary), array.indices)
    return 2 * num_values + int(pc.sum(lengths).as_py() or 0)


def hash_row(row: pa.RecordBatch, stream: Any) -> bytes:
    """Digest of a row's values and types by a `KeyedHash.stream`, as Arrow writes them."""

    class Sink:
        closed = False

        def write(self, part: Any) -> int:
            stream.update(part)
            return len(part)

        def flush(self) -> None:
            pass

        def close(self) -> None:
            pass

    # Taken out, the row has buffers of its own: those of its neighbours would be written with it.
    row = row.take(pa.array([0]))
    with pa.ipc.new_stream(pa.PythonFile(Sink(), mode="w"), row.schema) as writer:
        writer.write_batch(row)
    digest: bytes = stream.digest()
    return digest
