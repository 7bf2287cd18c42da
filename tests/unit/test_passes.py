"""How the CPUs are shared between redaction actors, reads and everything else."""

import pytest

from ftlib.data.passes import share_cpus


@pytest.mark.parametrize("cpus", [1, 2, 4, 64])
def test_actors_leave_room_for_a_read(cpus):
    shared = share_cpus(cpus, None)
    assert shared.num_actors == cpus
    assert shared.num_actors * shared.cpus_per_actor + shared.cpus_per_task <= max(cpus, 1)


def test_few_rows_get_few_actors_unless_their_number_was_given():
    by_default, chosen = share_cpus(4, None), share_cpus(4, 3)
    assert [by_default.for_rows(rows).num_actors for rows in (0, 5, 1_000, 10**6)] == [1, 1, 2, 4]
    assert [chosen.for_rows(rows).num_actors for rows in (0, 5, 10**6)] == [3, 3, 3]
