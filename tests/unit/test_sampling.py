"""Draws against their definitions, and the masks of grammars."""

import math

import pytest
import torch

from ftlib.inference.grammar import GrammarCompiler
from ftlib.inference.prefixes import Prefixes
from ftlib.inference.protocol import GenerationRequest, Grammar
from ftlib.inference.sampling import SamplingState, choose, draw, sample


def request_of(**options):
    return GenerationRequest("r", (1, 2, 3), 10, **options)


def support(logits, draws=4000, **options):
    """Tokens that come up, with their shares."""
    request = request_of(**options)
    tokens = draw(logits.expand(draws, -1), [request] * draws, [(7, at) for at in range(draws)])
    return {token: tokens.count(token) / draws for token in set(tokens)}


LOGITS = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log()


def test_shares_are_the_probabilities():
    assert support(LOGITS, temperature=1.0) == pytest.approx(
        {0: 0.5, 1: 0.25, 2: 0.125, 3: 0.0625, 4: 0.0625}, abs=0.025
    )


@pytest.mark.parametrize(
    "options, kept",
    [
        ({"top_k": 2}, {0: 2 / 3, 1: 1 / 3}),
        ({"top_p": 0.7}, {0: 2 / 3, 1: 1 / 3}),
        ({"top_p": 0.75}, {0: 2 / 3, 1: 1 / 3}),
        ({"top_p": 0.76}, {0: 4 / 7, 1: 2 / 7, 2: 1 / 7}),
        ({"min_p": 0.3}, {0: 2 / 3, 1: 1 / 3}),
        ({"top_k": 3, "top_p": 0.5}, {0: 1.0}),
        ({"top_k": 4, "min_p": 0.2}, {0: 4 / 7, 1: 2 / 7, 2: 1 / 7}),
    ],
)
def test_filters_keep_what_they_say(options, kept):
    assert support(LOGITS, temperature=1.0, **options) == pytest.approx(kept, abs=0.025)


def test_a_nucleus_beyond_the_first_candidates_is_found():
    found = support(torch.zeros(1000), draws=8000, temperature=1.0, top_p=0.5)
    assert len(found) in (500, 501)  # sums of a thousandth round


def test_rows_do_not_depend_on_each_other():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 1000, generator=generator) * 3
    options = [{}, {"top_p": 0.8}, {"top_k": 7}, {"min_p": 0.1}, {"top_p": 0.99, "top_k": 50}, {}]
    requests = [request_of(temperature=0.5 + 0.2 * at, **given) for at, given in enumerate(options)]
    keys = [(at, 3) for at in range(6)]
    together = draw(logits, requests, keys)
    assert together == [draw(logits[at : at + 1], [requests[at]], [keys[at]])[0] for at in range(6)]


def test_rounding_of_logits_does_not_change_what_is_drawn():
    """Kernels round differently for batches of other shapes; an answer that goes on elsewhere must stay the same."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1000, 49152, generator=generator)
    rounded = logits * (1 + 1e-7 * torch.randn(logits.shape, generator=generator))
    request, keys = [request_of(temperature=1.0)], [(3, at) for at in range(len(logits))]
    pairs = zip(draw(logits, request * 1000, keys), draw(rounded, request * 1000, keys), strict=True)
    assert sum(first != second for first, second in pairs) == 0


def test_large_vocabularies_are_drawn_from_evenly():
    """Through groups: 6,000 draws of 600 equal tokens, none left out."""
    tokens = draw(torch.zeros(6000, 600), [request_of(temperature=1.0)] * 6000, [(5, at) for at in range(6000)])
    shares = [sum(token // 200 == third for token in tokens) / 6000 for third in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)
    assert len(set(tokens)) == 600


def test_one_row_draws_as_many_do():
    request = request_of(temperature=1.0, top_p=0.9, seed=4)
    state = SamplingState(request, 4, num_generated=2)
    (choice,) = choose(LOGITS[None].clone(), [state], [[7, 8]])
    assert choice.token == sample(LOGITS, request, 2)


def test_logprobs_are_of_the_model_not_of_the_sampler():
    request = request_of(logprobs=2, logit_bias=((0, -100.0),))
    (choice,) = choose(LOGITS[None].clone(), [SamplingState(request, 0)], [[]])
    assert choice.token == 1
    assert choice.logprob == pytest.approx(math.log(0.25))
    assert [token for token, _ in choice.top_logprobs] == [0, 1]


def test_grammar_masks_what_cannot_follow(tokenizer):
    matcher = GrammarCompiler(tokenizer, len(tokenizer), [2]).matcher(Grammar("regex", "(yes|no)"))
    shown = {tokenizer.decode([token]) for token in matcher.allowed(len(tokenizer)).nonzero()[:, 0].tolist()}
    assert shown == {"y", "ye", "yes", "n", "no"}
    matcher.accept(tokenizer("yes").input_ids)
    assert matcher.complete
    with pytest.raises(ValueError, match="does not match"):
        matcher.accept([0])


@pytest.mark.parametrize(
    "grammar", [Grammar("regex", "(("), Grammar("json_schema", "{]"), Grammar("json_schema", '{"type": 3}')]
)
def test_grammars_that_cannot_be_compiled_are_refused(tokenizer, grammar):
    with pytest.raises(ValueError, match="grammar: "):
        GrammarCompiler(tokenizer, len(tokenizer), [2]).matcher(grammar)


def test_prefixes_go_on_in_place_or_by_copy_and_give_the_oldest_away():
    book, key = Prefixes(3, 100), (None, "")
    first = book.take(list(range(40)), key, 39)
    assert (first.length, first.copy_from) == (0, None)
    book.extend(first.slot, 0, list(range(40)))
    running = book.take(list(range(40)), key, 39)
    assert (running.length, running.copy_from) == (39, first.slot)
    book.release(first.slot)
    again = book.take([*range(30), 99, 98], key, 31)
    assert (again.slot, again.length, again.copy_from) == (first.slot, 30, None)
    other = book.take(list(range(40)), (None, "tenant"), 39)
    assert other.length == 0
    book.release(again.slot)
    book.forget("nobody")
    short = book.take([0, 1, 2, 3], key, 3)  # too short to be worth a copy, but free where it lies
    assert (short.slot, short.copy_from) == (again.slot, None)
