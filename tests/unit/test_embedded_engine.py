"""The streaming engine against PEFT and transformers' `generate` in float32, and its behaviour at the edges."""

import asyncio
import random
import time

import pytest

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.inference.embedded import EmbeddedEngine
from ftlib.inference.protocol import GenerationRequest, QueueFullError
from ftlib.inference.runner import ModelRunner
from tests.inference_cases import generate_alone, save_varied_model

ADAPTERS = {"one": "adapter0", "two.v2": "adapter1"}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return save_varied_model(tokenizer, tmp_path_factory.mktemp("varied"), num_adapters=2)


@pytest.fixture(scope="module")
def engine(folder):
    engine = EmbeddedEngine(
        lambda: ModelRunner.load(folder / "base", "float32"), max_model_len=256, max_rows=3, max_waiting=6
    )
    engine.start()
    for name, sub in ADAPTERS.items():
        engine.load_adapter(name, folder / sub, folder_sha256(folder / sub))
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def peers(folder):
    """The same models through peft and transformers alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def load(adapter):
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        return base if adapter is None else PeftModel.from_pretrained(base, folder / ADAPTERS[adapter])

    return {name: load(name) for name in (None, *ADAPTERS)}


def _prompt(seed, length=12):
    generator = random.Random(seed)
    return tuple(generator.randrange(100, 40_000) for _ in range(length))


async def _collect(engine, request):
    return [event async for event in engine.submit(request)]


def _run(engine, *requests):
    async def together():
        return await asyncio.gather(*(_collect(engine, request) for request in requests))

    return asyncio.run(together())


def _wait(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the engine did not get there"
        time.sleep(0.01)


def test_mixed_adapters_equal_peft_and_transformers(engine, peers, tokenizer):
    """Nine requests on three rows: admission, groups of adapters and leaving rows all take part."""
    requests = [
        GenerationRequest(f"{name}-{i}", _prompt(i, 5 + 7 * i), 6 + 4 * i, adapter=name)
        for i in range(3)
        for name in peers
    ]
    for request, events in zip(requests, _run(engine, *requests)):
        expected = generate_alone(peers[request.adapter], list(request.prompt), request.max_new_tokens)
        assert [event.token for event in events] == expected
        assert "".join(event.text for event in events) == tokenizer.decode(expected, skip_special_tokens=True)
        assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + ["length"]
    answers = {tuple(generate_alone(model, list(_prompt(0)), 6)) for model in peers.values()}
    assert len(answers) == 3, "the adapters must differ for this test to tell them apart"


def test_end_token_stops(engine, peers):
    expected = generate_alone(peers[None], list(_prompt(1)), 8)
    original, engine.runner.stop_ids = engine.runner.stop_ids, frozenset({expected[4]})
    try:
        (events,) = _run(engine, GenerationRequest("stop", _prompt(1), 8))
    finally:
        engine.runner.stop_ids = original
    assert [event.token for event in events] == expected[:5]
    assert events[-1].finish_reason == "stop" and events[-1].text == ""


def test_stop_string_ends_the_answer_before_it(engine, peers, tokenizer):
    tokens = generate_alone(peers[None], list(_prompt(2)), 10)
    text = tokenizer.decode(tokens)
    stop = text[len(text) // 2 : len(text) // 2 + 5]
    (events,) = _run(engine, GenerationRequest("string", _prompt(2), 10, stop=("never there", stop)))
    assert "".join(event.text for event in events) == text[: text.find(stop)]
    assert events[-1].finish_reason == "stop"


def test_a_seed_fixes_the_draw_whatever_runs_beside_it(engine):
    request = GenerationRequest("seeded", _prompt(3), 12, temperature=1.5, top_p=0.9, seed=5)
    others = [GenerationRequest(f"other{i}", _prompt(20 + i), 9, temperature=1.0) for i in range(2)]
    (alone,), (beside, *_) = _run(engine, request), _run(engine, request, *others)
    (other_seed,) = _run(engine, GenerationRequest("seeded", _prompt(3), 12, temperature=1.5, top_p=0.9, seed=6))
    assert [event.token for event in alone] == [event.token for event in beside]
    assert [event.token for event in alone] != [event.token for event in other_seed]


def test_leaving_the_stream_frees_the_row(engine):
    async def leave():
        events = engine.submit(GenerationRequest("left", _prompt(4), 200))
        async for _ in events:
            break
        await events.aclose()

    before = engine.stats().num_finished.get("cancelled", 0)
    asyncio.run(leave())
    _wait(lambda: engine.stats().num_finished.get("cancelled", 0) == before + 1)
    assert engine.stats().num_running == 0


def test_queue_limit_refuses_at_once(engine):
    async def flood():
        held = [engine.submit(GenerationRequest(f"held{i}", _prompt(i), 200)) for i in range(9)]
        waiting = [asyncio.ensure_future(anext(events)) for events in held]
        await asyncio.sleep(0)
        try:
            with pytest.raises(QueueFullError):
                await anext(engine.submit(GenerationRequest("one too many", _prompt(9), 5)))
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            for events in held:
                await events.aclose()

    asyncio.run(flood())
    _wait(lambda: engine.stats().num_running + engine.stats().num_waiting == 0)


def test_bad_requests_are_refused(engine):
    with pytest.raises(KeyError):
        _run(engine, GenerationRequest("a", _prompt(0), 5, adapter="nobody"))
    with pytest.raises(ValueError, match="at most 256"):
        _run(engine, GenerationRequest("b", _prompt(0, 250), 7))
    with pytest.raises(ValueError, match="0 prompt tokens"):
        _run(engine, GenerationRequest("c", (), 5))


def test_adapters_are_checked_by_content_and_name(engine, folder):
    with pytest.raises(UserError, match="not those expected"):
        engine.load_adapter("three", folder / "adapter0", "0" * 64)
    with pytest.raises(UserError, match="loaded already"):
        engine.load_adapter("one", folder / "adapter1")
    with pytest.raises(UserError, match="no adapter_model"):
        engine.load_adapter("three", folder / "base")


def test_unloading_and_loading_again(engine, folder, peers):
    engine.load_adapter("passing", folder / "adapter1")
    engine.unload_adapter("passing")
    with pytest.raises(KeyError):
        _run(engine, GenerationRequest("gone", _prompt(0), 5, adapter="passing"))
    (events,) = _run(engine, GenerationRequest("stays", _prompt(0), 5, adapter="one"))
    assert [event.token for event in events] == generate_alone(peers["one"], list(_prompt(0)), 5)


def test_a_defect_ends_its_requests_and_no_others(engine, monkeypatch):
    monkeypatch.setattr(engine, "_prefill", lambda active: 1 / 0)
    (events,) = _run(engine, GenerationRequest("broken", _prompt(0), 5))
    assert (events[-1].finish_reason, events[-1].message) == ("error", "ZeroDivisionError")
    monkeypatch.undo()
    (events,) = _run(engine, GenerationRequest("whole", _prompt(0), 5))
    assert events[-1].finish_reason == "length"
    assert engine.health().ok


def test_health_of_an_engine_that_does_not_run(folder):
    engine = EmbeddedEngine(lambda: ModelRunner.load(folder / "base", "float32"))
    assert not engine.health().ok
    engine.start()
    assert engine.health().ok
    engine.stop()
    assert not engine.health().ok
