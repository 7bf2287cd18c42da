"""How the CPUs are shared between redaction actors, reads and everything else."""

import pytest

from ftlib.config.prepare import ExecutionConfig, PiiConfig
from ftlib.core.errors import UserError
from ftlib.data.passes import rows_per_block, share_cpus, share_gpus
from ftlib.data.rows import ReadTask


@pytest.mark.parametrize("cpus", [1, 2, 4, 64])
def test_actors_leave_room_for_a_read(cpus):
    shared = share_cpus(cpus, None)
    assert shared.num_actors == cpus
    assert shared.num_actors * shared.cpus_per_actor + shared.cpus_per_task <= max(cpus, 1)


def test_few_rows_get_few_actors_unless_their_number_was_given():
    by_default, chosen = share_cpus(4, None), share_cpus(4, 3)
    assert [by_default.for_rows(rows).num_actors for rows in (0, 5, 1_000, 10**6)] == [1, 1, 2, 4]
    assert [chosen.for_rows(rows).num_actors for rows in (0, 5, 10**6)] == [3, 3, 3]


def test_actors_share_the_gpus_and_none_is_an_error_before_work():
    shared = share_cpus(64, None)
    assert share_gpus(shared, 0, PiiConfig()) == shared
    assert share_gpus(shared, 4, PiiConfig(num_gpus=0.5)).num_actors == 8
    assert share_gpus(shared, 1, PiiConfig(num_gpus=1)).num_actors == 1
    with pytest.raises(UserError, match=r"pii\.num_gpus=1: the cluster has 0 GPUs"):
        share_gpus(shared, 0, PiiConfig(num_gpus=1))


@pytest.mark.parametrize(
    ("num_rows", "bytes_each", "expected"),
    [
        (0, 0, 2048),
        (500_000, 200, 2048),
        (2_000_000, 200, 7813),  # 256 blocks
        (10**9, 200, 65_536),
        (2_000_000, 10_000, 3355),  # blocks of 32 MiB
        (2_000_000, 10**6, 2048),
    ],
)
def test_many_rows_travel_in_larger_blocks_unless_their_size_was_given(num_rows, bytes_each, expected):
    half = {"num_rows_estimate": num_rows // 2, "num_bytes": num_rows * bytes_each // 2}
    tasks = [ReadTask(name, name, 0, "jsonl", "", "text", 0, -1, **half) for name in ("a", "b")]
    assert rows_per_block(ExecutionConfig(), tasks) == expected
    assert rows_per_block(ExecutionConfig(rows_per_block=7), tasks) == 7
