"""One small real cluster for all tests of this folder: two CPUs, no dashboard, stopped at the end."""

import pytest

from ftlib.config.base import ClusterConfig
from ftlib.runtime.cluster import connect


@pytest.fixture(scope="session")
def ray_local():
    """The connected cluster (`.address`); jobs called inside it use it and leave it open."""
    with connect(ClusterConfig(address="local", num_cpus=2)) as cluster:
        yield cluster
