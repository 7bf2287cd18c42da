"""Good and bad answers and preferences to one prompt stay, on one side of the split; their copies go; whole jobs."""

import random

import pytest

from ftlib.data.prepared import open_prepared
from tests.ray_local.test_prepare import key, rows_of, run, sentence, write_jsonl  # noqa: F401

NUM_PROMPTS = 40


def placed(path):
    """(prompt, answer, rejected) of each kept record → its split."""
    dataset = open_prepared(str(path))
    found = {}
    for split in ("train", "val", "test"):
        for row in dataset.table(split).to_pylist():
            said = [message["content"] for message in row["messages"]]
            assert (said[0], *said[1:], row["rejected"]) not in found
            found[(said[0], *said[1:], row["rejected"])] = split
    return found


def check_sides(splits, num_prompts=NUM_PROMPTS):
    sides = {}
    for (prompt, *_), split in splits.items():
        sides.setdefault(prompt, set()).add(split)
    assert len(sides) == num_prompts and all(len(found) == 1 for found in sides.values())
    assert len(set(splits.values())) == 3


@pytest.mark.parametrize("length", [8, 150])
@pytest.mark.parametrize("rows_per_block", [7, 2048])
def test_good_and_bad_answers_stay(ray_local, tmp_path, length, rows_per_block):
    rng = random.Random(length)
    rows = []
    for number in range(NUM_PROMPTS):
        prompt = sentence(rng, length)
        rows += [
            {"prompt": prompt, "completion": f"It is fine {number}.", "label": True},
            {"prompt": prompt, "completion": f"It is wrong {number}.", "label": False},
            {"prompt": prompt, "completion": f"It is fine as well {number}.", "label": True},
            {"prompt": prompt, "completion": f"It is fine {number}.", "label": False},  # people disagree
        ]
    copies = [rows[number] for number in range(0, 4 * NUM_PROMPTS, 8)]
    path = write_jsonl(tmp_path / "in" / "a.jsonl", [*rows, *copies])
    run([path], tmp_path / "out", execution={"rows_per_block": rows_per_block})
    splits = placed(tmp_path / "out")
    assert len(splits) == len(rows)
    check_sides(splits)
    dropped = rows_of(tmp_path / "out", "dropped.parquet")
    assert [row["reason"] for row in dropped] == ["exact_duplicate"] * len(copies)


@pytest.mark.parametrize("length", [8, 150])
def test_preferences_stay(ray_local, tmp_path, length):
    rng = random.Random(length)
    rows = []
    for number in range(NUM_PROMPTS):
        prompt = sentence(rng, length)
        answers = [f"{word} is the answer {number}" for word in ("One", "Two", "Three")]
        pairs = ((0, 1), (0, 2), (2, 1), (1, 0))
        rows += [{"prompt": prompt, "chosen": answers[a], "rejected": answers[b]} for a, b in pairs]
    path = write_jsonl(tmp_path / "in" / "a.jsonl", [*rows, *rows[:10]])
    run([path], tmp_path / "out")
    splits = placed(tmp_path / "out")
    assert len(splits) == len(rows)
    check_sides(splits)
    assert [row["reason"] for row in rows_of(tmp_path / "out", "dropped.parquet")] == ["exact_duplicate"] * 10


def test_near_copies_of_a_prompt_with_the_same_answer_go(ray_local, tmp_path):
    rng = random.Random(3)
    rows, copies = [], []
    for _ in range(NUM_PROMPTS):
        prompt = sentence(rng, 150)
        rows += [{"prompt": prompt, "completion": f"Answer {verdict}", "label": verdict} for verdict in (True, False)]
        copies.append({**rows[-1], "prompt": f"{prompt} please"})
    path = write_jsonl(tmp_path / "in" / "a.jsonl", [*rows, *copies])
    run([path], tmp_path / "out")
    assert len(placed(tmp_path / "out")) == len(rows)
    assert [row["reason"] for row in rows_of(tmp_path / "out", "dropped.parquet")] == ["near_duplicate"] * len(copies)


def test_good_answers_beside_a_corpus_of_bad_ones(ray_local, tmp_path):
    rng = random.Random(4)
    rows = [{"prompt": sentence(rng, 150), "completion": "Fine.", "label": True} for _ in range(20)]
    known = write_jsonl(tmp_path / "known" / "a.jsonl", [{**row, "label": False} for row in rows] + rows[:5])
    path = write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    run([path], tmp_path / "out", dedup={"against": [str(known)]})
    assert len(placed(tmp_path / "out")) == 15
