"""Which replica a request goes to."""

import asyncio
from collections import Counter
from types import SimpleNamespace

from ftlib.inference.protocol import GenerationRequest
from serve_apps.args import AdapterArgs
from serve_apps.mail import Listen
from serve_apps.router import AdapterRouter, adapter_of, ranking

ADAPTERS = [f"adapter{number}@0" for number in range(2_000)]


def _replicas(number):
    return [SimpleNamespace(replica_id=SimpleNamespace(unique_id=f"r{index}")) for index in range(number)]


def _home(adapter, replicas):
    return ranking(adapter, replicas)[0].replica_id.unique_id


def test_homes_are_spread_evenly_and_do_not_depend_on_the_order_of_replicas():
    replicas = _replicas(8)
    homes = Counter(_home(adapter, replicas) for adapter in ADAPTERS)
    assert len(homes) == 8
    assert min(homes.values()) > 200 and max(homes.values()) < 300
    assert all(_home(adapter, replicas) == _home(adapter, replicas[::-1]) for adapter in ADAPTERS[:50])


def test_a_replica_that_goes_moves_only_its_own_adapters():
    replicas = _replicas(8)
    before = {adapter: _home(adapter, replicas) for adapter in ADAPTERS}
    after = {adapter: _home(adapter, replicas[1:]) for adapter in ADAPTERS}
    assert {before[adapter] for adapter in ADAPTERS if before[adapter] != after[adapter]} == {"r0"}
    assert "r0" not in after.values()


def test_the_adapter_of_a_call_is_found_in_its_arguments():
    request = GenerationRequest("1", (1,), 1, adapter="a@1")
    assert adapter_of([request]) == "a@1"
    assert adapter_of([AdapterArgs(name="a", path="x", sha256="0" * 64)]) == "a@000000000000"
    assert adapter_of([GenerationRequest("1", (1,), 1)]) is None
    assert adapter_of([]) is None


def test_a_gateway_listens_to_the_replica_that_it_means():
    router = AdapterRouter.__new__(AdapterRouter)  # without a Serve that runs
    router.initialize_state(rows=4, target=None, targets={})
    replicas = _replicas(5)

    def chosen(argument):
        call = SimpleNamespace(args=[argument], routing_context=SimpleNamespace(should_backoff=False))
        (group,) = asyncio.run(router.choose_replicas(replicas, call))
        return [replica.replica_id.unique_id for replica in group]

    assert all(chosen(Listen(f"r{index}", "gateway")) == [f"r{index}"] for index in range(5))
    assert len(chosen(Listen("gone", "gateway"))) == 1
    assert len(chosen(GenerationRequest("1", (1,), 1))) == 2
