"""A preparation that died while or after it redacted: the next attempt redacts no finished row again, same bytes."""

import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftlib.core.errors import UserError
from ftlib.data import passes, stored
from ftlib.data import prepare as preparing
from ftlib.data import schema as s
from tests.ray_local.test_prepare import contents, corpus, key, messy, run, write_jsonl  # noqa: F401

EXECUTION = {"num_partitions": 2, "num_workers": 1, "rows_per_block": 16}


class Killed(OSError):
    """Stands for the end of the driver."""


def prepare(tmp_path, name):
    source = write_jsonl(tmp_path / "a.jsonl", messy(random.Random(4)) + corpus(random.Random(5), 10))
    return run([source], tmp_path / name, execution=EXECUTION)


def die_before_writing(*arguments, **more):
    raise Killed


def test_finished_rows_are_not_redacted_again(ray_local, tmp_path, monkeypatch):
    prepare(tmp_path, "calm")
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "write_dataset", die_before_writing)
        with pytest.raises(Killed):
            prepare(tmp_path, "out")
    work = tmp_path / ".out.unfinished"
    files = sorted((work / "1").glob("*.parquet"))
    assert len(files) > 3 and not (tmp_path / "out").exists()
    # A task that never ended, one that ran twice, and a part of the dataset.
    files[0].unlink()
    shutil.copy(files[1], files[1].with_name("f" + files[1].name[1:]))
    (work / "output" / "train").mkdir(parents=True)
    (work / "output" / "train" / "part-00000.parquet").write_bytes(b"half")

    totals = []
    original = passes.run_pass

    def count(dataset, label, total):
        totals.append((label, total))
        return original(dataset, label, total)

    monkeypatch.setattr(passes, "run_pass", count)
    prepare(tmp_path, "out")
    redacted = [total for label, total in totals if label.startswith("redacting")]
    assert redacted and 0 < redacted[0] <= 2 * EXECUTION["rows_per_block"]
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")
    assert not work.exists() and not list(tmp_path.glob(".*"))


def test_what_other_work_left_is_not_used(tmp_path):
    out = str(tmp_path / "out")
    for work, expected in (("one", []), ("one", ["row"]), ("two", [])):
        with pytest.raises(Killed), stored.work_folder(out, work) as folder:
            assert [path.name for path in (Path(folder) / "1").iterdir()] == expected
            (Path(folder) / "1" / "row").touch()
            raise Killed
    with pytest.raises(UserError), stored.work_folder(out, "two"):
        raise UserError("the next attempt would fail, too")
    assert list(tmp_path.iterdir()) == []


def test_two_jobs_of_one_output_do_not_meet(tmp_path):
    with (
        stored.work_folder(str(tmp_path / "out"), "work"),
        pytest.raises(UserError, match="another job is writing it"),
        stored.work_folder(str(tmp_path / "out"), "work"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bounds", [[], [3, 4]])
def test_files_that_share_a_row_count_once(ray_local, tmp_path, bounds):
    store = stored.Store(str(tmp_path))
    cut = np.array(bounds, dtype=np.uint64)
    assert store.done(cut)[0] == []
    for number, values in enumerate([[3, 1], [2, 3], [4], [4], [5, 2]]):
        pq.write_table(pa.table({s.ROW: np.array(values, dtype=np.uint64)}), tmp_path / f"{number}.parquet")
    blocks, rows = store.done(cut)
    assert [block.path for block in blocks] == [f"{tmp_path}/0.parquet", f"{tmp_path}/2.parquet"]
    found = pa.concat_tables(rows.fetch(range(len(rows.parts))))
    assert found[s.ROW].to_pylist() == [1, 3, 4] and rows.num_rows() == 3
