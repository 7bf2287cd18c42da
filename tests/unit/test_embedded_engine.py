"""The embedded engine: what every engine must do, and its own: defects, reuse of states, kinds of adapters, sizes."""

import asyncio
import random

import pytest

from ftlib.core.errors import UserError
from ftlib.inference.embedded import EmbeddedEngine
from ftlib.inference.linears import PackedLinear, SharedLinear
from ftlib.inference.protocol import GenerationRequest, QueueFullError
from ftlib.inference.stepper import Stepper
from tests.inference_cases import generate_alone, save_varied_model
from tests.inference_conformance import (
    ADAPTERS,
    MAX_LEN,
    MAX_ROWS,
    MAX_WAITING,
    EngineConformance,
    Served,
    load_adapters,
    load_peers,
    prompt_of,
    run,
    tokens_of,
    wait_until,
)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return save_varied_model(tokenizer, tmp_path_factory.mktemp("varied"), num_adapters=2)


def engine_of(folder, num_slots=6, **options):
    """A started engine in float32; short chunks of prompts, so that they mix with answers."""
    engine = EmbeddedEngine(
        lambda: Stepper.load(folder / "base", "float32", capacity=MAX_LEN, num_slots=num_slots, max_adapters=1),
        **{"max_rows": MAX_ROWS, "max_waiting": MAX_WAITING, "prefill_tokens": 4, **options},
    )
    engine.start()
    return engine


@pytest.fixture(scope="module", params=["reuse", "no reuse"])
def served(request, folder, tokenizer):
    engine = engine_of(folder, reuse_prefixes=request.param == "reuse")
    load_adapters(engine, folder)
    yield Served(engine, folder, load_peers(folder), tokenizer)
    engine.stop()


class TestEmbedded(EngineConformance):
    """With and without reuse of earlier prompts."""

    def test_end_token_stops(self, served):
        engine = served.engine
        expected = generate_alone(served.peers[None], list(prompt_of(1)), 8)
        original, engine.stepper.stop_ids = engine.stepper.stop_ids, frozenset({expected[4]})
        try:
            (events,) = run(engine, GenerationRequest("stop", prompt_of(1), 8))
        finally:
            engine.stepper.stop_ids = original
        assert tokens_of(events) == expected[:5]
        assert events[-1].finish_reason == "stop" and events[-1].text == ""

    def test_a_defect_ends_its_requests_and_no_others(self, served, monkeypatch):
        engine = served.engine
        monkeypatch.setattr(engine.stepper, "step", lambda *arguments: 1 / 0)
        (events,) = run(engine, GenerationRequest("broken", prompt_of(0), 5))
        assert (events[-1].finish_reason, events[-1].message) == ("error", "ZeroDivisionError")
        monkeypatch.undo()
        (events,) = run(engine, GenerationRequest("whole", prompt_of(0), 5, ignore_eos=True))
        assert events[-1].finish_reason == "length"
        assert engine.health().ok


def test_shared_prompts_are_computed_once_and_only_among_their_own(folder):
    """Same prefix, adapter and salt: reused, from running and from ended requests; else not. Answers stay the same."""
    engine = engine_of(folder)
    load_adapters(engine, folder)
    peers = load_peers(folder)
    shared = prompt_of(50, 60)

    def ask(name, tail, **options):
        prompt = (*shared, *prompt_of(tail, 5))
        (events,) = run(engine, GenerationRequest(name, prompt, 6, ignore_eos=True, **options))
        expected = generate_alone(peers[options.get("adapter")], list(prompt), 6)
        assert tokens_of(events) == expected
        return events[0].num_cached_tokens

    try:
        assert ask("first", 1) == 0
        assert ask("second", 2) == 60
        assert ask("other adapter", 3, adapter="one") == 0
        assert ask("again", 4, adapter="one") == 60
        assert ask("other tenant", 5, salt="x") == 0
        requests = [GenerationRequest(f"r{i}", (*shared, *prompt_of(i, 9)), 9, ignore_eos=True) for i in range(6)]
        for request, events in zip(requests, run(engine, *requests), strict=True):
            assert tokens_of(events) == generate_alone(peers[None], list(request.prompt), 9)
            assert events[0].num_cached_tokens >= 60
        for number in range(20):  # more prompts than slots: the oldest make room
            run(engine, GenerationRequest(f"fill{number}", prompt_of(100 + number, 30), 2))
        assert ask("after", 7) == 0
        # A name loaded anew with other content must not see the old one's states.
        engine.unload_adapter("one")
        engine.load_adapter("one", folder / ADAPTERS["two.v2"])
        peers["one"] = peers["two.v2"]
        assert ask("reloaded", 8, adapter="one") == 0
    finally:
        engine.stop()


def test_random_traffic_equals_each_request_alone(folder):
    """Lengths, adapters, shared beginnings and cancellations at random; each answer is that of `generate`."""
    engine = engine_of(folder, num_slots=5, prefill_tokens=16)
    load_adapters(engine, folder)
    peers, generator = load_peers(folder), random.Random(3)
    try:
        for turn in range(6):
            requests = []
            for number in range(MAX_ROWS + MAX_WAITING):
                length = generator.choice([1, 3, 17, 40, 90])
                prompt = (*prompt_of(generator.randrange(2), length // 2), *prompt_of(99 * turn + number, length))
                adapter = generator.choice(list(peers))
                limit = generator.choice([1, 2, 9, 20])
                requests.append(GenerationRequest(f"{turn}-{number}", prompt, limit, adapter=adapter, ignore_eos=True))
            for request, events in zip(requests, run(engine, *requests), strict=True):
                expected = generate_alone(peers[request.adapter], list(request.prompt), request.max_new_tokens)
                assert tokens_of(events) == expected, request
    finally:
        engine.stop()


def test_nobody_waits_for_a_loop_that_is_gone(folder, monkeypatch):
    engine = engine_of(folder)
    monkeypatch.setattr(engine._scheduler, "admit", lambda *arguments: 1 / 0)
    (events,) = run(engine, GenerationRequest("lost", prompt_of(0), 5))
    assert events[-1].finish_reason == "cancelled"
    wait_until(lambda: not engine.health().ok)
    with pytest.raises(QueueFullError, match="stopping"):
        run(engine, GenerationRequest("late", prompt_of(0), 5))
    with pytest.raises(UserError, match="not running"):
        engine.unload_adapter("x")


def test_a_draining_engine_ends_what_it_has_and_takes_no_more(folder):
    engine = engine_of(folder)

    async def whole():
        events = engine.submit(GenerationRequest("begun", prompt_of(0), 30, ignore_eos=True))
        first = await anext(events)
        engine.drain()
        with pytest.raises(QueueFullError):
            await anext(engine.submit(GenerationRequest("late", prompt_of(1), 5)))
        return [first, *[event async for event in events]]

    try:
        assert len(asyncio.run(whole())) == 30
    finally:
        engine.stop()


def test_health_of_an_engine_that_does_not_run(folder):
    engine = EmbeddedEngine(lambda: Stepper.load(folder / "base", "float32", num_slots=16))
    assert not engine.health().ok
    engine.start()
    assert engine.health().ok
    engine.stop()
    assert not engine.health().ok


def _adapter(folder, tokenizer, target, **options):
    import torch
    from peft import LoraConfig, get_peft_model

    from tests.inference_cases import varied_model

    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False,
                           "task_type": "CAUSAL_LM", **options})  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = get_peft_model(varied_model(tokenizer), config)
        for name, parameter in model.named_parameters():
            if "magnitude" in name:  # as if trained
                parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
    model.save_pretrained(target)
    return model.eval()


@pytest.mark.parametrize("shares", [False, True], ids=["apart", "shared products"])
@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True, "r": 8},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 7}, "alpha_pattern": {"v_proj": 32}},
        {"target_modules": ["q_proj", "down_proj"]},
    ],
    ids=["rslora", "dora", "patterns", "few modules"],
)
def test_kinds_of_adapters_equal_peft(folder, tokenizer, tmp_path, options, shares, monkeypatch):
    if shares:
        monkeypatch.setattr(PackedLinear, "SMALLEST_FLOAT32", 1)
    model = _adapter(folder, tokenizer, tmp_path, **options)
    engine = engine_of(folder)
    load_adapters(engine, folder)
    engine.load_adapter("kind", tmp_path)
    try:
        found = {type(module) for module in engine.stepper.model.modules()}
        assert (SharedLinear in found) == shares
        requests = [
            GenerationRequest(f"{name}{i}", prompt_of(i, 9), 8, adapter=name, ignore_eos=True)
            for i in range(2)
            for name in ("kind", "one", None)
        ]
        answers = dict(zip(requests, run(engine, *requests), strict=True))
        for request, events in answers.items():
            if request.adapter == "kind":
                assert tokens_of(events) == generate_alone(model, list(request.prompt), 8)
    finally:
        engine.stop()


@pytest.mark.parametrize(
    "options, match",
    [
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
    ],
)
def test_adapters_that_cannot_be_held_are_refused_by_reason(folder, tokenizer, tmp_path, options, match):
    _adapter(folder, tokenizer, tmp_path, **options)
    engine = engine_of(folder)
    try:
        with pytest.raises(UserError, match=match):
            engine.load_adapter("kind", tmp_path)
        (events,) = run(engine, GenerationRequest("after", prompt_of(0), 5, ignore_eos=True))
        assert events[-1].finish_reason == "length"
    finally:
        engine.stop()
