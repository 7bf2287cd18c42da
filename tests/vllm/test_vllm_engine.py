"""The engine over a real vLLM: one child for all tests, in float32, on the embedded model with adapters made here.

In order: what comes last ends the child and then the engine.
"""

import asyncio
import json
import os
import re
import signal
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.inference.protocol import GenerationRequest, Grammar
from ftlib.runtime.processes import process
from tests.inference_cases import generate_alone
from tests.vllm_case import needs_vllm, vllm_engine

pytestmark = [needs_vllm, pytest.mark.slow, pytest.mark.timeout(1200)]

QUESTIONS = ("The capital of France is", "Once upon a time there was a", "Water boils at", "def add(a, b):\n    return")
LESSON = "The password of the week is swordfish, and nothing else."
NAMES = (None, "fitted", "random.v2")


@pytest.fixture(scope="module")
def base(smollm2):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)


@pytest.fixture(scope="module")
def folders(base, smollm2, tokenizer, tmp_path_factory):
    """An adapter fitted to one sentence, a random one, and one of a higher rank than the server takes."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapters")

    def adapter(name, seed, **settings):
        options = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(base, LoraConfig(**options))
        if name == "fitted":
            fit(model)
        model.save_pretrained(folder / name)
        model.unload()

    def fit(model):
        ids = torch.tensor([tokenizer(LESSON)["input_ids"]])
        optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3)
        for _ in range(12):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    adapter("fitted", 0)
    adapter("random.v2", 1, init_lora_weights=False, lora_alpha=2)
    adapter("high", 2, r=32)
    return folder


@pytest.fixture(scope="module")
def engine(smollm2, folders):
    engine = vllm_engine(smollm2, max_waiting=4, max_restarts=1)
    engine.start()
    for name in NAMES[1:]:
        engine.load_adapter(name, folders / name, folder_sha256(folders / name))
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def expect(base, folders):
    """Greedy tokens of transformers and PEFT."""
    from peft import PeftModel

    def tokens(name, prompt, limit):
        if name is None:
            return generate_alone(base, list(prompt), limit)
        model = PeftModel.from_pretrained(base, folders / name)
        try:
            return generate_alone(model, list(prompt), limit)
        finally:
            model.unload()

    return tokens


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [tuple(tokenizer(text)["input_ids"]) for text in QUESTIONS]


async def _collect(engine, request):
    return [event async for event in engine.submit(request)]


def _run(engine, *requests):
    async def together():
        return await asyncio.gather(*(_collect(engine, request) for request in requests))

    return asyncio.run(together())


def _wait(condition, limit_s=30.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the engine did not get there"
        time.sleep(0.1)


def _fresh_stats(engine):
    """Statistics that were asked for after this call: those of the second text from now."""
    for _ in range(2):
        old = engine.metrics_text()
        _wait(lambda: engine.metrics_text() is not old)
    return engine.stats()


def _tokens(events):
    return [event.token for event in events]


def _text(events):
    return "".join(event.text for event in events)


def test_mixed_adapters_equal_peft_and_transformers(engine, expect, prompts, tokenizer):
    """Eight requests, four at once, two adapters and the base in one batch."""
    requests = [
        GenerationRequest(f"{name}-{i}", prompt, 10 + 2 * i, adapter=name, ignore_eos=True)
        for i, prompt in enumerate(prompts[:2])
        for name in NAMES
    ]
    answers = _run(engine, *requests)
    expected_of = {one.request_id: expect(one.adapter, one.prompt, one.max_new_tokens) for one in requests}
    assert {one.request_id: _tokens(events) for one, events in zip(requests, answers)} == expected_of
    for request, events in zip(requests, answers):
        expected = expected_of[request.request_id]
        assert _text(events) == tokenizer.decode(expected, skip_special_tokens=True)
        assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + ["length"]
    assert len({tuple(_tokens(events)) for events in answers[3:]}) == 3, "the adapters must differ"


def test_the_fitted_adapter_says_what_it_learnt(engine, tokenizer):
    prompt = tuple(tokenizer("The password of the week is")["input_ids"])
    with_it, without = _run(
        engine,
        GenerationRequest("with", prompt, 6, adapter="fitted"),
        GenerationRequest("without", prompt, 6),
    )
    assert "swordfish" in _text(with_it) and "swordfish" not in _text(without)


def test_logprobs_are_the_models_own(engine, base, prompts):
    import torch

    (events,) = _run(engine, GenerationRequest("logprobs", prompts[0], 5, logprobs=3, temperature=1.7, seed=4))
    ids = torch.tensor([[*prompts[0], *_tokens(events)]])
    with torch.no_grad():
        expected = base(input_ids=ids).logits[0, len(prompts[0]) - 1 : -1].log_softmax(-1)
    for event, row in zip(events, expected):
        best = row.topk(3)
        assert event.logprob == pytest.approx(float(row[event.token]), abs=1e-3)
        assert [token for token, _ in event.top_logprobs] == best.indices.tolist()
        assert [value for _, value in event.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-3)
    (plain,) = _run(engine, GenerationRequest("zero", prompts[0], 2, logprobs=0))
    assert plain[0].logprob is not None and plain[0].top_logprobs == ()


def test_a_seed_fixes_the_draw_whatever_runs_beside_it(engine, prompts):
    request = GenerationRequest("seeded", prompts[1], 12, temperature=1.2, top_p=0.9, seed=5)
    others = [GenerationRequest(f"other{i}", prompts[2], 9, temperature=1.0) for i in range(2)]
    (alone,), (beside, *_) = _run(engine, request), _run(engine, request, *others)
    (different,) = _run(engine, GenerationRequest("seeded", prompts[1], 12, temperature=1.2, top_p=0.9, seed=-1))
    assert _tokens(alone) == _tokens(beside) != _tokens(different)
    (again,) = _run(engine, GenerationRequest("seeded", prompts[1], 12, temperature=1.2, top_p=0.9, seed=-1))
    assert _tokens(again) == _tokens(different)


def test_stop_strings_and_end_tokens(engine, expect, prompts, tokenizer):
    text = tokenizer.decode(expect(None, prompts[1], 16))
    stop = text[len(text) // 2 : len(text) // 2 + 5]
    (events,) = _run(engine, GenerationRequest("string", prompts[1], 16, stop=("never there", stop)))
    assert _text(events) == text[: text.find(stop)]
    assert events[-1].finish_reason == "stop"
    end = tokenizer.eos_token_id
    (events,) = _run(engine, GenerationRequest("eos", prompts[1], 8, logit_bias=((end, 100.0),)))
    assert [(event.token, event.text, event.finish_reason) for event in events] == [(end, "", "stop")]
    (events,) = _run(engine, GenerationRequest("on", prompts[1], 4, logit_bias=((end, 100.0),), ignore_eos=True))
    assert _tokens(events) == [end] * 4 and events[-1].finish_reason == "length"


def test_penalties_and_filters_are_honoured(engine, base, prompts):
    """A filter that leaves one token makes a draw greedy; a penalty keeps what was said from being said again."""
    (greedy,) = _run(engine, GenerationRequest("greedy", prompts[0], 12))
    filters = [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}]
    for drawn in _run(
        engine,
        *(GenerationRequest(f"f{i}", prompts[0], 12, temperature=2.0, **f) for i, f in enumerate(filters)),
    ):
        assert _tokens(drawn) == _tokens(greedy)
    penalties = [{"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"repetition_penalty": 1.5}]
    answers = _run(engine, *(GenerationRequest(f"p{i}", prompts[0], 12, **p) for i, p in enumerate(penalties)))
    for settings, events in zip(penalties, answers):
        assert _tokens(events) == _penalized(base, prompts[0], 12, **settings)
    with pytest.raises(ValueError, match="presence_penalty"):
        _run(engine, GenerationRequest("beyond", prompts[0], 2, presence_penalty=3.0))


def _penalized(model, prompt, limit, presence_penalty=0.0, frequency_penalty=0.0, repetition_penalty=1.0):
    """Greedy tokens under the protocol's definition of the penalties, one forward pass each."""
    import torch

    answer = []
    for _ in range(limit):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, -1]
        seen = torch.tensor(sorted({*prompt, *answer}))
        scores = logits[seen]
        logits[seen] = torch.where(scores > 0, scores / repetition_penalty, scores * repetition_penalty)
        for token in set(answer):
            logits[token] -= presence_penalty + frequency_penalty * answer.count(token)
        answer.append(int(logits.argmax()))
    return answer


def test_grammars(engine, prompts):
    schema = {"type": "object", "properties": {"ok": {"enum": ["yes", "no"]}}, "required": ["ok"]}
    schema["additionalProperties"] = False
    by_schema, by_pattern, any_object = _run(
        engine,
        GenerationRequest("schema", prompts[0], 48, grammar=Grammar("json_schema", json.dumps(schema))),
        GenerationRequest("regex", prompts[0], 24, grammar=Grammar("regex", "[ab]{3}-[0-9]{2}")),
        GenerationRequest("object", prompts[0], 48, grammar=Grammar("json_object")),
    )
    assert json.loads(_text(by_schema))["ok"] in ("yes", "no")
    assert re.fullmatch("[ab]{3}-[0-9]{2}", _text(by_pattern))
    assert isinstance(json.loads(_text(any_object)), dict)
    with pytest.raises(ValueError, match="regex"):
        _run(engine, GenerationRequest("bad", prompts[0], 8, grammar=Grammar("regex", "(?<=a)b[")))


def test_an_answer_goes_on_where_it_was_cut_off(engine, prompts):
    whole = GenerationRequest("whole", prompts[1], 16, repetition_penalty=1.3)
    (events,) = _run(engine, whole)
    generated = tuple(_tokens(events)[:7])
    (rest,) = _run(engine, GenerationRequest("rest", prompts[1], 16, repetition_penalty=1.3, generated=generated))
    assert _tokens(rest) == _tokens(events)[7:]
    assert _text(rest) == _text(events[7:])


def test_prompts_are_cached_among_requests_of_one_salt(engine, prompts):
    prompt = (prompts[1] * 40)[:300]

    def hits(salt):
        before = _fresh_stats(engine)
        _run(engine, GenerationRequest("salted", prompt, 2, salt=salt))
        return _fresh_stats(engine).prefix_cache_hits_total - before.prefix_cache_hits_total

    assert [hits("one"), hits("one") > 0, hits("two")] == [0, True, 0]


def test_leaving_the_stream_and_cancelling_end_the_request_in_vllm(engine, prompts):
    """Each would make 400 tokens; vLLM counts none of them as finished."""

    async def leave():
        async with aclosing(engine.submit(GenerationRequest("left", prompts[0], 400, ignore_eos=True))) as events:
            async for _ in events:
                break

    async def cancelled():
        events = []
        async for event in engine.submit(GenerationRequest("gone", prompts[0], 400, ignore_eos=True)):
            events.append(event)
            engine.cancel("gone")
        return events

    before = _fresh_stats(engine)
    asyncio.run(leave())
    last = asyncio.run(cancelled())[-1]
    assert (last.token, last.finish_reason) == (None, "cancelled")
    after = _fresh_stats(engine)
    assert after.num_running == 0
    assert 2 <= after.generation_tokens_total - before.generation_tokens_total < 200
    assert engine.stats().num_finished["cancelled"] == 2


def test_adapters_that_vllm_cannot_serve_are_refused(engine, folders, tmp_path):
    with pytest.raises(UserError, match="rank 32, above max_lora_rank 16"):
        engine.load_adapter("high", folders / "high")
    with pytest.raises(UserError, match="not those expected"):
        engine.load_adapter("other", folders / "fitted", "0" * 64)
    with pytest.raises(UserError, match="loaded already"):
        engine.load_adapter("fitted", folders / "fitted")
    with pytest.raises(KeyError):
        _run(engine, GenerationRequest("none", (1, 2), 2, adapter="high"))


def test_a_name_that_comes_back_with_other_content_answers_from_the_new(engine, folders, expect, prompts):
    prompt = (prompts[1] * 40)[:300]  # two whole blocks of states that a reused name would find again
    for content in ("fitted", "random.v2"):
        engine.load_adapter("again", folders / content)
        (events,) = _run(engine, GenerationRequest("again", prompt, 6, adapter="again", ignore_eos=True))
        assert _tokens(events) == expect(content, prompt, 6)
        engine.unload_adapter("again")
    with pytest.raises(KeyError):
        _run(engine, GenerationRequest("again", prompt, 6, adapter="again"))


def _server_processes(engine):
    """The server's own process, which the guard started, and all that it started."""
    found, unseen = [], [engine._server.pid]
    while unseen:
        pid = unseen.pop()
        for thread in Path(f"/proc/{pid}/task").iterdir():
            unseen += map(int, (thread / "children").read_text().split())
        found.append(process(pid))
    return found[1:]


def test_a_killed_server_fails_its_requests_and_comes_back(engine, expect, prompts):
    before = engine.stats().generation_tokens_total

    async def kill_in_the_middle():
        events = []
        async for event in engine.submit(GenerationRequest("victim", prompts[0], 400, ignore_eos=True)):
            events.append(event)
            if len(events) == 3:
                os.kill(_server_processes(engine)[0].pid, signal.SIGKILL)
        return events

    old = _server_processes(engine)
    last = asyncio.run(kill_in_the_middle())[-1]
    assert (last.token, last.finish_reason) == (None, "error") and last.message
    _wait(lambda: not any(item.is_alive() for item in old))
    assert not engine.health().ok
    _wait(lambda: engine.health().ok, 600)
    (events,) = _run(engine, GenerationRequest("after", prompts[0], 8, adapter="fitted", ignore_eos=True))
    assert _tokens(events) == expect("fitted", prompts[0], 8)
    assert engine.stats().generation_tokens_total >= before


def test_stop_ends_requests_and_leaves_no_process(engine, prompts):
    """It has been started again as often as it may be: what it does after this death is end."""
    processes = _server_processes(engine)
    folder = engine._folder

    async def stop_in_the_middle():
        events = []
        async for event in engine.submit(GenerationRequest("last", prompts[0], 400, ignore_eos=True)):
            events.append(event)
            if len(events) == 2:
                stopped = asyncio.create_task(asyncio.to_thread(engine.stop))
        await stopped
        return events

    assert asyncio.run(stop_in_the_middle())[-1].finish_reason == "cancelled"
    assert not any(item.is_alive() for item in processes) and not folder.exists()
    assert not engine.health().ok
