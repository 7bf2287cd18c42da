"""Packing and tokenising: what goes in comes out once, and nothing is learnt across sequences."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftlib.core.errors import UserError
from ftlib.data.pack import PackedSplit, best_fit, write_file, write_index
from ftlib.data.tokenize import TokenizeSettings, hash_limit, id_hash, tokenize_rows, truncate
from ftlib.data.unsupervised import (
    CUT_OFF,
    EMPTY_ANSWER,
    EMPTY_TEXT,
    NO_ASSISTANT,
    NOT_RENDERED,
    REFUSED,
    WEIGHT_ZERO,
    Unsupervised,
    why_unsupervised,
)

LENGTHS = st.lists(st.integers(1, 64), max_size=60)


@given(LENGTHS)
def test_every_item_is_in_one_pack_and_no_pack_overflows(lengths):
    packs = best_fit(lengths, 64)
    assert sorted(item for pack in packs for item in pack) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in pack) <= 64 for pack in packs)


@given(LENGTHS)
def test_best_fit_decreasing_equals_its_definition(lengths):
    """Oracle: scan all open packs for the fullest that still fits."""
    packs: list[list[int]] = []
    free: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        fits = [index for index, room in enumerate(free) if room >= lengths[item]]
        if fits:
            chosen = min(fits, key=lambda index: free[index])
            packs[chosen].append(item)
            free[chosen] -= lengths[item]
        else:
            packs.append([item])
            free.append(64 - lengths[item])
    assert sorted(64 - sum(lengths[i] for i in pack) for pack in best_fit(lengths, 64)) == sorted(free)


def test_item_above_capacity_is_refused():
    with pytest.raises(ValueError, match="65 tokens"):
        best_fit([3, 65], 64)


@given(LENGTHS.filter(len), st.booleans())
def test_packed_split_gives_back_every_sequence_with_fresh_positions(tmp_path_factory, lengths, packing):
    folder = tmp_path_factory.mktemp("split")
    tokens = [[100 * number + place for place in range(length)] for number, length in enumerate(lengths)]
    weights = [[1.0] * length for length in lengths]
    half = len(lengths) // 2
    ids = [f"row-{number}" for number in range(len(lengths))]
    halves = (slice(half), slice(half, None))
    parts = [write_file(folder, n, tokens[part], weights[part], ids[part]) for n, part in enumerate(halves)]
    info = write_index(folder, np.concatenate(parts), 64, packing=packing, counts={})
    split = PackedSplit(folder)
    found = []
    for index in range(len(split)):
        pack = split[index]
        starts = np.flatnonzero(pack.position_ids == 0)
        assert not pack.weights[starts].any()  # a first token is no target
        assert pack.weights.sum() == pytest.approx(split.pack_weights[index])
        assert len(pack.input_ids) == split.pack_tokens[index]
        pieces = [piece.tolist() for piece in np.split(pack.input_ids, starts[1:])]
        assert split.ids(index) == [f"row-{piece[0] // 100}" for piece in pieces]
        assert [pack.only(number).input_ids.tolist() for number in range(pack.num_sequences)] == pieces
        found += pieces
    assert sorted(found) == sorted(tokens)
    assert info["num_tokens"] == sum(lengths)


@given(st.integers(8, 40), st.integers(0, 60), st.integers(1, 60))
def test_truncation_keeps_the_answer_before_the_prompt(limit, prompt, answer):
    ids = list(range(prompt + answer))
    mask = [False] * prompt + [True] * answer
    cut, kept = truncate(ids, mask, limit)
    assert len(cut) == len(kept) == min(limit, len(ids))
    assert cut == list(range(cut[0], cut[0] + len(cut)))
    first = prompt if prompt else 0
    assert first in cut  # the answer's first token survives
    if prompt and answer < limit:
        assert cut[-1] == ids[-1]


LIMITS = TokenizeSettings("", 128)


def row(number, answer="yes please", **extra):
    messages = [{"role": "user", "content": "ok?"}, {"role": "assistant", "content": answer}]
    return {"id": f"r{number}", "messages": messages, "text": None, "weight": None} | extra


def test_rows_without_supervision_are_counted_and_left_out(tokenizer):
    rows = [row(1), row(2, messages=row(2)["messages"][:1]), row(3, weight=0.0), row(4, messages=None, text="")]
    result = tokenize_rows(rows, tokenizer, LIMITS)
    assert len(result.tokens) == 1
    assert result.unsupervised.ids == {NO_ASSISTANT: ["r2"], WEIGHT_ZERO: ["r3"], EMPTY_TEXT: ["r4"]}


def test_weights_by_sampling_say_how_often_a_row_is_seen(tokenizer, tmp_path):
    rows = [row(number, weight=2.25) for number in range(400)] + [row(400, label="rare"), row(401, label="common")]
    settings = replace(LIMITS, weighting="sampling", class_weights=(("rare", 3.0),))
    result = tokenize_rows(rows, tokenizer, settings)
    assert {weight for weights in result.weights for weight in weights} == {0.0, 1.0}
    assert result.copies[400:] == [3, 1]
    assert set(result.copies[:400]) == {2, 3} and 2.15 < np.mean(result.copies[:400]) < 2.35
    written = write_file(tmp_path, 0, result.tokens, result.weights, result.ids)
    write_index(tmp_path, written, 128, packing=True, counts={}, copies=np.asarray(result.copies))
    split = PackedSplit(tmp_path)
    assert sum(split[index].num_sequences for index in range(len(split))) == sum(result.copies)
    for index in range(len(split)):
        assert len(split.ids(index)) == split[index].num_sequences  # no row twice in one pack


def test_too_long_conversations_lose_what_the_policy_says(tokenizer):
    prompt = " ".join(f"word{number}" for number in range(80))
    long = row(1, messages=[{"role": "user", "content": prompt}, {"role": "assistant", "content": "yes"}])
    left, right, dropped = (
        tokenize_rows([long, row(2)], tokenizer, replace(LIMITS, max_seq_len=64, truncation=policy))
        for policy in ("left", "right", "drop")
    )
    assert [left.num_truncated, right.num_truncated, dropped.num_truncated] == [1, 1, 1]
    assert left.ids == ["r1", "r2"] and len(left.tokens[0]) == 64
    assert right.ids == ["r2"] and right.unsupervised.ids == {CUT_OFF: ["r1"]}  # nothing of the answer was left
    assert dropped.ids == ["r2"] and dropped.num_too_long == 1 and not dropped.unsupervised.num_rows


def test_weights_scale_the_learnt_tokens(tokenizer):
    plain, heavy = (tokenize_rows([row(1, weight=weight)], tokenizer, LIMITS).weights[0] for weight in (None, 2.5))
    assert [2.5 * weight for weight in plain] == heavy
    assert set(plain) == {0.0, 1.0}


def test_long_text_is_cut_into_pieces_that_learn_each_token_once(tokenizer):
    text = " ".join(f"word{number}" for number in range(60))
    result = tokenize_rows([row(1, messages=None, text=text)], tokenizer, TokenizeSettings("", 32))
    assert len(result.tokens) > 2
    whole = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    joined = result.tokens[0] + [token for piece in result.tokens[1:] for token in piece[1:]]
    assert joined == whole


def test_too_many_unsupervised_rows_abort_with_ids_of_each_reason():
    parts = []
    for part in ("a", "b"):
        unsupervised = Unsupervised()
        for number in range(4):
            unsupervised.add(f"{part}{number}", WEIGHT_ZERO)
        unsupervised.add(f"{part}-refused", REFUSED)
        parts.append(unsupervised.as_json())
    total = Unsupervised.merged(parts)
    total.check(1000, 0.01)
    with pytest.raises(UserError, match=r"10 of 999 rows supervise no token, more than data.max_unsupervised") as error:
        total.check(999, 0.01)
    assert "8 weight 0 (a0, a1, a2, a3, b0, …); 2 refused by the chat template (a-refused, b-refused)" in str(
        error.value
    )


def test_reason_of_each_kind_of_unsupervised_row(tokenizer):
    silent, strict, deaf = (copy.deepcopy(tokenizer) for _ in range(3))
    silent.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    silent.eos_token = None
    strict.chat_template = "{{ raise_exception('no') }}"
    deaf.chat_template = "never what was said"
    assert why_unsupervised(row(1), 0.0, tokenizer) == WEIGHT_ZERO
    assert why_unsupervised(row(1), 1.0, strict) == REFUSED
    assert why_unsupervised(row(1, answer=""), 1.0, silent) == EMPTY_ANSWER
    assert why_unsupervised(row(1), 1.0, tokenizer) == CUT_OFF  # it does supervise tokens when it is whole
    deaf.eos_token = None
    assert why_unsupervised(row(1), 1.0, deaf) == NOT_RENDERED


def test_row_limit_takes_the_smallest_hashes(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = [f"row{number}" for number in range(50)]
    for part in range(2):
        pq.write_table(pa.table({"id": ids[part::2]}), tmp_path / f"{part}.parquet")
    limit = hash_limit([str(path) for path in sorted(tmp_path.iterdir())], 7)
    assert sorted(map(id_hash, ids))[:7] == sorted(value for value in map(id_hash, ids) if value <= limit)
