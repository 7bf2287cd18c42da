"""Batch generation and scoring against transformers' own `generate` and a plain forward pass, in float32."""

import random

import pytest
import torch

from ftlib.inference.batch import BatchEngine
from ftlib.inference.protocol import GenerationRequest
from ftlib.inference.rows import common_prefix
from ftlib.inference.runner import ModelRunner
from tests.inference_cases import generate_alone, varied_model


@pytest.fixture(scope="module")
def runner(tokenizer):
    return ModelRunner(varied_model(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def prompts():
    generator = random.Random(5)
    shared = [generator.randrange(100, 40_000) for _ in range(24)]
    return [shared + [generator.randrange(100, 40_000) for _ in range(n)] for n in (3, 9, 1, 20, 5, 5)]


@pytest.fixture(scope="module")
def stopping(runner, prompts):
    """The runner with end tokens that the tiny model really emits, so that rows end at different steps."""
    emitted = [generate_alone(runner.model, prompt, 8) for prompt in prompts]
    assert len({token for tokens in emitted for token in tokens}) > 20, "the model's answers must vary"
    stops = frozenset({emitted[1][2], emitted[3][5]})
    original, runner.stop_ids = runner.stop_ids, stops
    yield runner
    runner.stop_ids = original


def _requests(prompts):
    return [GenerationRequest(str(i), tuple(p), 5 + 2 * i) for i, p in enumerate(prompts)]


@pytest.mark.parametrize("share_prefix", [True, False])
def test_rows_of_a_batch_equal_generate_alone(stopping, prompts, share_prefix):
    engine = BatchEngine(stopping, share_prefix)
    first, again = engine.generate_batch(_requests(prompts)), engine.generate_batch(_requests(prompts[:4]))
    assert first[:4] == again, "the prefix kept from the batch before changes nothing"
    for request, made in zip(_requests(prompts), first):
        expected = generate_alone(stopping.model, request.prompt, request.max_new_tokens, stopping.stop_ids)
        assert list(made.tokens) == [token for token in expected if token not in stopping.stop_ids]
        stopped = len(made.tokens) < request.max_new_tokens
        assert made.finish_reason == ("stop" if stopped else "length")
    assert {made.finish_reason for made in first} == {"stop", "length"}, "the case needs both"


def test_prefix_is_computed_once(runner, prompts):
    engine = BatchEngine(runner)
    engine.generate_batch(_requests(prompts))
    sizes = []
    forward = runner.model.forward
    runner.model.forward = lambda **inputs: sizes.append(inputs["input_ids"].shape) or forward(**inputs)
    try:
        engine.generate_batch(_requests(prompts[:2]))
    finally:
        runner.model.forward = forward
    assert sizes[0] == (2, 9), "the second batch runs on the suffixes alone"


def test_scores_equal_a_plain_forward_pass(runner, prompts):
    generator = random.Random(6)
    answers = [[generator.randrange(100, 40_000) for _ in range(n)] for n in (1, 4, 2, 9, 3, 6)]
    scores = BatchEngine(runner).score_batch(prompts, answers)
    for prompt, answer, score in zip(prompts, answers, scores):
        with torch.inference_mode():
            log_probs = runner.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        expected = sum(log_probs[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))
        assert score.log_prob == pytest.approx(expected, abs=1e-3)
        assert score.num_tokens == len(answer)


def test_drafting_with_the_reference_changes_no_answer(stopping, prompts):
    """References that agree wholly, partly, not at all, end early or go on too long."""
    engine, requests = BatchEngine(stopping), _requests(prompts)
    expected = engine.generate_batch(requests)
    generator = random.Random(7)
    stop = min(stopping.stop_ids)
    for _ in range(12):
        answers = []
        for made in expected:
            answer = list(made.tokens) + [stop] * generator.randint(0, 1)
            if generator.random() < 0.5 and answer:
                answer[generator.randrange(len(answer))] = 17
            answers.append((answer + [23] * generator.choice([0, 3])) or [23])
        assert engine.run(requests, answers)[0] == expected


def test_drafting_saves_steps(runner, prompts):
    engine, requests = BatchEngine(runner), _requests(prompts)
    answers = [list(made.tokens) for made in engine.generate_batch(requests)]
    calls = []
    forward = runner.model.forward
    runner.model.forward = lambda **inputs: calls.append(1) or forward(**inputs)
    try:
        engine.run(requests, answers)
    finally:
        runner.model.forward = forward
    assert len(calls) == 3, "the shared prefix, the prompts' suffixes and one pass over the references"


def test_too_long_and_empty_are_refused(runner):
    engine = BatchEngine(runner)
    with pytest.raises(ValueError, match="512 positions"):
        engine.generate_batch([GenerationRequest("a", tuple(range(500)), 20)])
    with pytest.raises(ValueError, match="0 prompt tokens"):
        engine.generate_batch([GenerationRequest("a", (), 20)])
    with pytest.raises(ValueError, match="one adapter"):
        engine.generate_batch([GenerationRequest("a", (1,), 1), GenerationRequest("b", (1,), 1, adapter="x")])


def test_common_prefix():
    assert common_prefix([[1, 2, 3], [1, 2, 4], [1, 2]]) == 2
    assert common_prefix([[1], [2]]) == 0
    assert common_prefix([[5, 6]]) == 2
