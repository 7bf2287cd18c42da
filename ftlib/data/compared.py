"""Records of preferences as token sequences: two answers to one prompt a sample.

In: canonical records with a worse answer, or an undesirable answer alone, in `rejected`. Out: `Sequences` with samples.
"""

from dataclasses import replace
from typing import Any

from ftlib.core.errors import UserError
from ftlib.data.records import is_bad_answer_alone, tool_definitions, turns
from ftlib.data.schema import CONTENT, ID, REJECTED, TRAIN_TURN
from ftlib.data.sequences import Sequences, TokenizeSettings, record_weight
from ftlib.data.unsupervised import (
    BAD_ANSWER_ALONE,
    CUT_OFF,
    NO_ASSISTANT,
    NO_REJECTED,
    NOT_RENDERED,
    WEIGHT_ZERO,
    refusal,
)
from ftlib.models.chat import Encoded, encode_turns


def preference_rows(rows: list[dict[str, Any]], tokenizer: Any, settings: TokenizeSettings) -> Sequences:
    """Tokenise records of preferences, two sequences a sample; only the answers at the end weigh (1 a token).

    DPO needs both answers. KTO takes an answer alone (desirable) or two (the second undesirable), each beside another
    record's answer to its own prompt, from which the divergence is estimated.
    """
    result, factors = Sequences(num_rows=len(rows)), dict(settings.class_weights)
    answers: list[Answer] = []
    for row in rows:
        said, rejected, alone = turns(row), row.get(REJECTED), is_bad_answer_alone(row)
        reasons = [
            reason
            for reason, holds in (
                (BAD_ANSWER_ALONE, alone and settings.objective == "dpo"),
                (NO_ASSISTANT, not alone and (not said or said[-1]["role"] != "assistant")),
                (WEIGHT_ZERO, record_weight(row, factors) <= 0),
                (NO_REJECTED, settings.objective == "dpo" and not rejected),
            )
            if holds
        ]
        if reasons:
            result.unsupervised.add(row[ID], reasons[0])
            continue
        if not alone:
            # Preferences learn the last answer, whatever it is marked for.
            answers.append((row, {name: value for name, value in said[-1].items() if name != TRAIN_TURN}, True))
        if rejected:
            answers.append((row, {"role": "assistant", CONTENT: rejected}, False))
    if settings.objective == "dpo":
        pairs = list(zip(answers[::2], answers[1::2], strict=True))
    else:
        pairs = [(answer, (answer[0], _foreign_answer(answers, place), False)) for place, answer in enumerate(answers)]
    for pair in pairs:
        _add_pair(result, pair, tokenizer, settings, record_weight(pair[0][0], factors))
    return result


Answer = tuple[dict[str, Any], dict[str, Any], bool]
"""A record, the message that answers its prompt, and whether that is desirable."""


def _foreign_answer(answers: list[Answer], place: int) -> dict[str, Any]:
    """The next answer to another record's prompt (records have at most two); its own where there is none."""
    following = (answers[(place + step) % len(answers)] for step in (1, 2))
    return next((answer for row, answer, _ in following if row is not answers[place][0]), answers[place][1])


def _add_pair(
    result: Sequences, pair: tuple[Answer, Answer], tokenizer: Any, settings: TokenizeSettings, weight: float
) -> None:
    """Two answers to one prompt, which both lose the same tokens of when one is too long."""
    row, limit, encoded = pair[0][0], settings.max_seq_len, []
    prompt = turns(row) if is_bad_answer_alone(row) else turns(row)[:-1]
    lost: Encoded | None = None
    for _, answer, _ in pair:
        try:
            whole = encode_turns(tokenizer, [*prompt, answer], tool_definitions(row))
        except UserError:
            whole = Encoded([], [])
        lost = lost or whole
        encoded.append((whole.ids, last_answer(whole.supervised)))
    if not all(any(mask[1:]) for _, mask in encoded):
        result.unsupervised.add(row[ID], NOT_RENDERED if all(ids for ids, _ in encoded) else refusal(row, tokenizer))
        return
    excess = max(len(ids) for ids, _ in encoded) - limit
    if excess > 0:
        result.num_truncated += 1
        if settings.truncation == "drop":
            result.num_too_long += 1
            return
        start = min(mask.index(True) for _, mask in encoded)
        cut = min(excess, max(start - 1, 0)) if settings.truncation == "left" else 0
        encoded = [(ids[cut : cut + limit], mask[cut : cut + limit]) for ids, mask in encoded]
        if not all(any(mask[1:]) for _, mask in encoded):
            result.unsupervised.add(row[ID], CUT_OFF)
            return
    if lost is not None:
        # Earlier turns are a part of the prompt here: none of them is to be learnt.
        result.count_lost(replace(lost, num_turns_unlearnt=0))
    for ids, mask in encoded:
        result.add(row[ID], ids, [1.0 if flag else 0.0 for flag in mask])
    result.samples.append((weight, float(pair[0][2])))


def last_answer(mask: list[bool]) -> list[bool]:
    """A mask without all but its last run of True."""
    end = len(mask) - 1 - mask[::-1].index(True) if any(mask) else -1
    start = end
    while start > 0 and mask[start - 1]:
        start -= 1
    return [start <= place <= end for place in range(len(mask))] if end >= 0 else mask
