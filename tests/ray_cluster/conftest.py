"""Several Ray nodes on this machine, for all tests of this folder: each may kill one of them."""

import pytest

from tests import faults


@pytest.fixture(scope="session")
def nodes(tmp_path_factory):
    """A head that runs no tasks and three worker nodes of one CPU each, or those that earlier tests left of them."""
    with faults.cluster(tmp_path_factory.mktemp("cluster"), count=3, cpus=1) as found:
        yield found
