"""Records that only look alike stay, whole jobs: shared instructions, other scripts, symbols, values, variants."""

import json
import random

import pytest

from tests.ray_local.test_prepare import kept, key, rows_of, run, write_jsonl  # noqa: F401

NUM_TICKETS, NUM_COPIES = 60, 20


def tickets(rng, count, length=14):
    known = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(60)]
    return known, [rng.choices(known, k=length) for _ in range(count)]


def shared_instruction(rng):
    """Tickets under one instruction, and copies of the first ones with one word changed."""
    known, found = tickets(rng, NUM_TICKETS)
    instruction = "Read the ticket. " + " ".join(rng.choices(tickets(rng, 0)[0], k=150))
    copies = [[*ticket[:7], rng.choice(known) + "x", *ticket[8:]] for ticket in found[:NUM_COPIES]]
    return [
        {"id": f"r{number}", "instruction": instruction, "input": " ".join(ticket), "output": "billing"}
        for number, ticket in enumerate([*found, *copies])
    ]


@pytest.mark.parametrize(("rows_per_block", "num_partitions"), [(7, 3), (2048, 1)])
def test_tickets_under_one_instruction_stay_and_copies_go(ray_local, tmp_path, rows_per_block, num_partitions):
    path = write_jsonl(tmp_path / "in" / "a.jsonl", shared_instruction(random.Random(1)))
    run(
        [path],
        tmp_path / "out",
        pii={"profile": "fast", "residual_sample": 0},
        execution={"rows_per_block": rows_per_block, "num_partitions": num_partitions},
    )
    splits = kept(tmp_path / "out")
    assert sorted(splits) == sorted(f"r{number}" for number in range(NUM_TICKETS))
    assert len(set(splits.values())) == 3
    dropped = {row["id"]: row["keeper_id"] for row in rows_of(tmp_path / "out", "dropped.parquet")}
    assert dropped == {f"r{NUM_TICKETS + number}": f"r{number}" for number in range(NUM_COPIES)}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (shared,) = report["common_text"]
    assert shared["num_rows"] == NUM_TICKETS and shared["text"].startswith("Read the ticket")
    assert not [finding for finding in report["findings"] if finding["severity"] == "high"]


def test_tickets_in_many_small_files_stay(ray_local, tmp_path):
    rows = shared_instruction(random.Random(2))
    paths = [write_jsonl(tmp_path / "in" / f"{row['id']}.jsonl", [row]) for row in rows]
    run(paths, tmp_path / "out")
    assert len(kept(tmp_path / "out")) == NUM_TICKETS


def test_a_source_that_loses_much_is_a_high_finding_with_redacted_pairs(ray_local, tmp_path):
    rng = random.Random(3)
    _, texts = tickets(rng, 40, 60)
    rows = [{"text": " ".join(text)} for text in texts]
    base = " ".join(texts[0])
    rows += [{"text": f"{base} please write to erna{number}.meier@example.org"} for number in range(30)]
    run(
        [write_jsonl(tmp_path / "in" / "a.jsonl", rows)],
        tmp_path / "out",
        pii={"profile": "fast", "residual_sample": 0},
    )
    text = (tmp_path / "out" / "report.json").read_text()
    report = json.loads(text)
    (loss,) = report["losses"]
    assert loss["reason"] == "near_duplicate" and loss["num_rows"] == 30 and loss["num_in"] == 70
    assert report["findings"][0]["severity"] == "high" and "lost 43%" in report["findings"][0]["title"]
    assert "REDACTED" in loss["examples"][0] and "meier" not in text
    assert "meier" not in (tmp_path / "out" / "report.html").read_text()


def test_filters_that_take_much_of_a_source_are_a_high_finding(ray_local, tmp_path):
    rng = random.Random(4)
    rows = [{"text": " ".join(ticket)} for ticket in tickets(rng, 20)[1]] + [{"text": f"ok{i}"} for i in range(15)]
    run([write_jsonl(tmp_path / "in" / "a.jsonl", rows)], tmp_path / "out", pii={"profile": "none"})
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (loss,) = report["losses"]
    assert (loss["stage"], loss["reason"], loss["num_rows"]) == ("filter", "too_short", 15)
    assert not any("“" in example for example in loss["examples"])  # nothing was redacted


def test_near_duplicates_without_blanks_go(ray_local, tmp_path):
    rng = random.Random(5)
    rows = []
    for first, last in ((0x4E00, 0x9000), (0x3041, 0x3096), (0xAC00, 0xD000), (0x0E01, 0x0E2E)):
        for _ in range(10):
            text = "".join(chr(rng.randrange(first, last)) for _ in range(100))
            place = rng.randrange(100)
            rows += [text, text[:place] + "乙" + text[place + 1 :]]
    path = write_jsonl(tmp_path / "in" / "a.jsonl", [{"id": str(i), "text": text} for i, text in enumerate(rows)])
    run([path], tmp_path / "out")
    assert sorted(kept(tmp_path / "out"), key=int) == [str(i) for i in range(0, len(rows), 2)]


def test_symbols_and_values_keep_records_apart(ray_local, tmp_path):
    pairs = [
        ("Is five greater than three in this order, yes or no: 5 {} 3", (">", "<")),
        ("Write a small program that prints hello to the screen in C{} please", ("", "++", "#")),
        ("Transfer the amount of {} from the account of the firm to the supplier", ("€ 500", "$ 500", "$ 50")),
        ("The temperature outside is {} degrees, what should the crew wear this morning", ("5", "-5", "−6")),
        ("The set point of the transmitter is {} and the limit of the line is one", ("5 mW", "5 MW")),
    ]
    rows = [{"text": text.format(value)} for text, values in pairs for value in values]
    path = write_jsonl(tmp_path / "in" / "a.jsonl", [*rows, *({"text": row["text"] + " !"} for row in rows)])
    run([path], tmp_path / "out", filter={"enabled": False})
    assert len(kept(tmp_path / "out")) == len(rows)


def test_variants_are_kept_on_one_side(ray_local, tmp_path):
    rng = random.Random(6)
    _, texts = tickets(rng, 12, 120)
    rows = []
    for number, text in enumerate(texts):
        rows += [{"id": f"{number}-{i}", "text": " ".join([*text, *["extra"] * i])} for i in range(3)]
        rows.append({"id": f"{number}-copy", "text": " ".join(text).upper() + "!"})
    path = write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    run([path], tmp_path / "out", dedup={"preset": "keep_variants"})
    splits = kept(tmp_path / "out")
    dropped = {row["id"] for row in rows_of(tmp_path / "out", "dropped.parquet")}
    assert {f"{number}-copy" for number in range(12)} <= dropped
    for number in range(12):
        assert len({splits[f"{number}-{i}"] for i in range(3) if f"{number}-{i}" in splits}) == 1
        assert f"{number}-2" in splits
