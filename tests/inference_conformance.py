"""What every engine must do, by its capabilities: a suite that test files of engines inherit.

A subclass gives the fixture `served`, a `Served`. Answers are compared token for token with PEFT and transformers'
`generate` in float32.
"""

import asyncio
import json
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.inference.protocol import Engine, GenerationRequest, Grammar, QueueFullError
from tests.inference_cases import generate_alone

MAX_LEN, MAX_ROWS, MAX_WAITING = 256, 3, 6
ADAPTERS = {"one": "adapter0", "two.v2": "adapter1"}
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["label", "count"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Served:
    """An engine of MAX_LEN, MAX_ROWS and MAX_WAITING in float32 with ADAPTERS loaded, and the models without it."""

    engine: Engine
    folder: Path
    """Holds `base` and the adapters."""

    peers: dict[str | None, Any]
    tokenizer: Any


def load_adapters(engine: Engine, folder: Path) -> None:
    """Load ADAPTERS by content."""
    for name, sub in ADAPTERS.items():
        engine.load_adapter(name, folder / sub, folder_sha256(folder / sub))


def load_peers(folder: Path) -> dict[str | None, Any]:
    """The base and each adapter on a base of its own, through peft and transformers alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def load(adapter: str | None) -> Any:
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        return base if adapter is None else PeftModel.from_pretrained(base, folder / ADAPTERS[adapter])

    return {name: load(name) for name in (None, *ADAPTERS)}


def prompt_of(seed: int, length: int = 12) -> tuple[int, ...]:
    """Random token ids."""
    generator = random.Random(seed)
    return tuple(generator.randrange(100, 40_000) for _ in range(length))


def run(engine: Engine, *requests: GenerationRequest) -> list[list[Any]]:
    """Events of requests that run at once."""

    async def collect(request: GenerationRequest) -> list[Any]:
        return [event async for event in engine.submit(request)]

    async def together() -> list[list[Any]]:
        return await asyncio.gather(*(collect(request) for request in requests))

    return asyncio.run(together())


def tokens_of(events: list[Any]) -> list[int]:
    """The tokens of an answer."""
    return [event.token for event in events if event.token is not None]


def text_of(events: list[Any]) -> str:
    """Its text."""
    return "".join(event.text for event in events)


def wait_until(condition: Any, seconds: float = 20) -> None:
    """Poll a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the engine did not get there"
        time.sleep(0.01)


def needs(served: Served, *parameters: str) -> None:
    """Skip where the engine says that it does not honour a parameter, after seeing that it refuses it."""
    lacking = set(parameters) - served.engine.capabilities().parameters
    if lacking:
        pytest.skip(f"the engine says that it does not honour {', '.join(sorted(lacking))}")


class EngineConformance:
    """The suite."""

    def test_mixed_adapters_equal_peft_and_transformers(self, served: Served) -> None:
        """Nine requests on three rows: admission, chunks, several adapters at once and leaving rows all take part."""
        requests = [
            GenerationRequest(f"{name}-{i}", prompt_of(i, 5 + 7 * i), 6 + 4 * i, adapter=name, ignore_eos=True)
            for i in range(3)
            for name in served.peers
        ]
        for request, events in zip(requests, run(served.engine, *requests), strict=True):
            expected = generate_alone(served.peers[request.adapter], list(request.prompt), request.max_new_tokens)
            assert tokens_of(events) == expected
            assert text_of(events) == served.tokenizer.decode(expected, skip_special_tokens=True)
            assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + ["length"]
        answers = {tuple(generate_alone(model, list(prompt_of(0)), 6)) for model in served.peers.values()}
        assert len(answers) == 3, "the adapters must differ for this test to tell them apart"

    def test_stop_string_ends_the_answer_before_it(self, served: Served) -> None:
        tokens = generate_alone(served.peers[None], list(prompt_of(2)), 10)
        text = served.tokenizer.decode(tokens)
        stop = text[len(text) // 2 : len(text) // 2 + 5]
        request = GenerationRequest("string", prompt_of(2), 10, stop=("never there", stop), ignore_eos=True)
        (events,) = run(served.engine, request)
        assert text_of(events) == text[: text.find(stop)]
        assert events[-1].finish_reason == "stop"

    def test_a_seed_fixes_the_draw_whatever_runs_beside_it(self, served: Served) -> None:
        request = GenerationRequest("seeded", prompt_of(3), 12, temperature=1.5, top_p=0.9, seed=5)
        others = [GenerationRequest(f"other{i}", prompt_of(20 + i), 9, temperature=1.0) for i in range(2)]
        (alone,), (beside, *_) = run(served.engine, request), run(served.engine, request, *others)
        (changed,) = run(served.engine, GenerationRequest("x", prompt_of(3), 12, temperature=1.5, top_p=0.9, seed=6))
        assert tokens_of(alone) == tokens_of(beside) != tokens_of(changed)

    @pytest.mark.parametrize("parameter", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}])
    def test_filters_that_leave_one_token_are_greedy(self, served: Served, parameter: dict[str, Any]) -> None:
        needs(served, *parameter)
        greedy = GenerationRequest("greedy", prompt_of(5), 8, ignore_eos=True)
        drawn = GenerationRequest("drawn", prompt_of(5), 8, temperature=1.5, seed=3, ignore_eos=True, **parameter)
        first, second = run(served.engine, greedy, drawn)
        assert tokens_of(first) == tokens_of(second)

    def test_logprobs_are_those_of_the_model(self, served: Served) -> None:
        import torch

        needs(served, "logprobs")
        (events,) = run(served.engine, GenerationRequest("told", prompt_of(6), 6, logprobs=3, ignore_eos=True))
        tokens = tokens_of(events)
        with torch.no_grad():
            ids = torch.tensor([[*prompt_of(6), *tokens]])
            expected = served.peers[None](ids).logits[0, len(prompt_of(6)) - 1 : -1].float().log_softmax(-1)
        for event, row in zip(events, expected, strict=True):
            assert event.logprob == pytest.approx(float(row[event.token]), abs=1e-3)
            values, best = row.topk(3)
            assert [token for token, _ in event.top_logprobs] == best.tolist()
            assert [value for _, value in event.top_logprobs] == pytest.approx(values.tolist(), abs=1e-3)

    def test_penalties_and_biases_change_the_answer_as_defined(self, served: Served) -> None:
        needs(served, "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias")
        plain = tokens_of(run(served.engine, GenerationRequest("p", prompt_of(7), 12, ignore_eos=True))[0])
        barred = ((plain[0], -100.0),)
        chosen = tokens_of(
            run(served.engine, GenerationRequest("b", prompt_of(7), 4, logit_bias=barred, ignore_eos=True))[0]
        )
        assert plain[0] not in chosen
        for name, value in (("frequency_penalty", 2.0), ("presence_penalty", 2.0), ("repetition_penalty", 1.8)):
            request = GenerationRequest(name, prompt_of(7), 12, ignore_eos=True, **{name: value})  # type: ignore[arg-type]
            expected = _penalised(served.peers[None], list(prompt_of(7)), 12, **{name: value})
            assert tokens_of(run(served.engine, request)[0]) == expected, name

    def test_json_schemas_and_expressions_bind(self, served: Served) -> None:
        kinds = served.engine.capabilities().grammars
        if not kinds:
            pytest.skip("the engine says that it has no grammars")
        schema, expression = Grammar("json_schema", json.dumps(SCHEMA)), Grammar("regex", "(yes|no), [0-9]{3}")
        requests = [
            GenerationRequest(f"{grammar.kind}{seed}", prompt_of(seed), 60, temperature=1.0, seed=seed, grammar=grammar)
            for grammar in (schema, expression)
            for seed in range(3)
        ]
        answers = run(served.engine, *requests)
        for events in answers[:3]:
            answer = json.loads(text_of(events))
            assert set(answer) == {"label", "count"} and answer["label"] in ("red", "green")
            assert events[-1].finish_reason == "stop"
        for events in answers[3:]:
            assert re.fullmatch("(yes|no), [0-9]{3}", text_of(events))
        with pytest.raises(ValueError, match="grammar"):
            run(served.engine, GenerationRequest("bad", prompt_of(0), 5, grammar=Grammar("regex", "((")))

    @pytest.mark.parametrize("adapter", [None, "one"])
    def test_an_answer_goes_on_where_it_was_cut_off(self, served: Served, adapter: str | None) -> None:
        request = GenerationRequest("whole", prompt_of(8), 16, adapter=adapter, stop=("never",), ignore_eos=True)
        (whole,) = run(served.engine, request)
        for cut in (1, 9, 15):
            before = tuple(tokens_of(whole)[:cut])
            rest = GenerationRequest(
                f"rest{cut}", prompt_of(8), 16, adapter=adapter, stop=("never",), ignore_eos=True, generated=before
            )
            (events,) = run(served.engine, rest)
            assert tokens_of(events) == tokens_of(whole)[cut:]

    def test_leaving_the_stream_frees_the_row(self, served: Served) -> None:
        engine = served.engine

        async def leave() -> None:
            events = engine.submit(GenerationRequest("left", prompt_of(4), 200, ignore_eos=True))
            async for _ in events:
                break
            await events.aclose()

        before = engine.stats().num_finished.get("cancelled", 0)
        asyncio.run(leave())
        wait_until(lambda: engine.stats().num_finished.get("cancelled", 0) == before + 1)
        wait_until(lambda: engine.stats().num_running == 0)

    def test_queue_limit_refuses_at_once(self, served: Served) -> None:
        engine, full = served.engine, MAX_ROWS + MAX_WAITING

        async def flood() -> None:
            held = [
                engine.submit(GenerationRequest(f"held{i}", prompt_of(i), 200, ignore_eos=True)) for i in range(full)
            ]
            waiting = [asyncio.ensure_future(anext(events)) for events in held]
            await asyncio.sleep(0)
            try:
                with pytest.raises(QueueFullError):
                    await anext(engine.submit(GenerationRequest("one too many", prompt_of(9), 5)))
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
                for events in held:
                    await events.aclose()

        asyncio.run(flood())
        wait_until(lambda: engine.stats().num_running + engine.stats().num_waiting == 0)

    def test_bad_requests_are_refused(self, served: Served) -> None:
        with pytest.raises(KeyError):
            run(served.engine, GenerationRequest("a", prompt_of(0), 5, adapter="nobody"))
        with pytest.raises(ValueError, match=f"at most {MAX_LEN}"):
            run(served.engine, GenerationRequest("b", prompt_of(0, MAX_LEN - 6), 7))
        with pytest.raises(ValueError, match="0 prompt tokens"):
            run(served.engine, GenerationRequest("c", (), 5))

    def test_adapters_are_checked_by_content_and_name(self, served: Served) -> None:
        engine, folder = served.engine, served.folder
        with pytest.raises(UserError, match="not those expected"):
            engine.load_adapter("three", folder / "adapter0", "0" * 64)
        with pytest.raises(UserError, match="loaded already"):
            engine.load_adapter("one", folder / "adapter1")
        with pytest.raises(UserError, match=r"no adapter_(model|config)"):
            engine.load_adapter("three", folder / "base")

    def test_unloading_and_loading_again_under_the_same_name(self, served: Served) -> None:
        engine, folder = served.engine, served.folder
        for name, sub in ADAPTERS.items():
            engine.load_adapter("passing", folder / sub)
            (events,) = run(engine, GenerationRequest("p", prompt_of(0), 5, adapter="passing", ignore_eos=True))
            assert tokens_of(events) == generate_alone(served.peers[name], list(prompt_of(0)), 5)
            engine.unload_adapter("passing")
        with pytest.raises(KeyError):
            run(engine, GenerationRequest("gone", prompt_of(0), 5, adapter="passing"))
        (events,) = run(engine, GenerationRequest("stays", prompt_of(0), 5, adapter="one", ignore_eos=True))
        assert tokens_of(events) == generate_alone(served.peers["one"], list(prompt_of(0)), 5)

    def test_embeddings_are_means_of_last_states(self, served: Served) -> None:
        import torch

        if not served.engine.capabilities().embeddings:
            with pytest.raises(ValueError, match="embed"):
                asyncio.run(served.engine.embed([prompt_of(0)]))
            return
        prompts = [prompt_of(0), prompt_of(1, 40), prompt_of(0)]
        found = asyncio.run(served.engine.embed(prompts))
        for prompt, vector in zip(prompts, found, strict=True):
            with torch.no_grad():
                states = served.peers[None].model(torch.tensor([prompt])).last_hidden_state[0].mean(0)
            torch.testing.assert_close(torch.tensor(vector), states / states.norm(), atol=1e-4, rtol=1e-3)

    def test_stats_count(self, served: Served) -> None:
        before = served.engine.stats()
        run(served.engine, GenerationRequest("counted", prompt_of(30, 20), 7, ignore_eos=True))
        wait_until(lambda: served.engine.stats().generation_tokens_total - before.generation_tokens_total == 7)
        assert served.engine.stats().num_running == 0
        assert served.engine.health().ok


def _penalised(model: Any, prompt: list[int], limit: int, **penalty: float) -> list[int]:
    """Greedy tokens under a penalty, by its definition, one whole forward pass a token."""
    import torch

    answer: list[int] = []
    for _ in range(limit):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0, -1].float()
        for token in set(answer):
            logits[token] -= penalty.get("presence_penalty", 0.0)
            logits[token] -= penalty.get("frequency_penalty", 0.0) * answer.count(token)
        factor = penalty.get("repetition_penalty", 1.0)
        for token in {*prompt, *answer}:
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        answer.append(int(logits.argmax()))
    return answer
