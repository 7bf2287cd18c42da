"""The sample corpus: the truth is true."""

import json

import pytest

from ftlib.data.sample import OVERSIZED_LINE_BYTES, jaccard, word_shingles, write_sample
from ftlib.data.sample_phrases import QUEUE_OF
from ftlib.data.sample_score import covers, score_prepared

NUM_ROWS = 300


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    counts = write_sample(folder, NUM_ROWS, seed=3)
    lines = (folder / "tickets.jsonl").read_bytes().split(b"\n")[:-1]
    return folder, counts, lines, json.loads((folder / "truth.json").read_text())


def rows_of(lines, truth) -> dict[str, dict]:
    broken = {entry["line"] for entry in truth["broken"]}
    return {row["id"]: row for i, line in enumerate(lines) if i not in broken for row in [json.loads(line)]}


def test_same_seed_same_bytes_other_seed_other_bytes(sample, tmp_path):
    folder, _, lines, _ = sample
    write_sample(tmp_path / "again", NUM_ROWS, seed=3)
    write_sample(tmp_path / "other", NUM_ROWS, seed=4)
    for name in ("tickets.jsonl", "truth.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert (tmp_path / "other" / "tickets.jsonl").read_bytes().split(b"\n")[0] != lines[0]


def test_truth_names_values_and_lines(sample):
    _, counts, lines, truth = sample
    rows = rows_of(lines, truth)
    assert len(lines) == counts["num_lines"] == truth["num_lines"]
    assert len(rows) == NUM_ROWS
    planted = 0
    for name, entry in truth["pii"].items():
        assert json.loads(lines[entry["line"]])["id"] == name
        for value in entry["values"]:
            assert rows[name][value["field"]][value["start"] : value["end"]] == value["value"]
            planted += 1
    assert planted == counts["num_pii_values"]
    assert 0.6 <= len(truth["pii"]) / NUM_ROWS <= 0.8
    assert len({value["entity"] for entry in truth["pii"].values() for value in entry["values"]}) >= 12


def test_duplicates_are_what_they_are_called(sample):
    _, _, lines, truth = sample
    rows = rows_of(lines, truth)
    assert len(truth["exact_duplicates"]) == len(truth["near_duplicates"]) == 18
    variants = 0
    for group in truth["exact_duplicates"]:
        first, second = (rows[name] for name in group["ids"])
        assert first["input"].lower().split() == second["input"].lower().split()
        assert first["output"] == second["output"]
        variants += first["input"] != second["input"]
    assert 3 <= variants <= 15
    for group in truth["near_duplicates"]:
        first, second = (rows[name]["input"] for name in group["ids"])
        assert 0.9 <= jaccard(word_shingles(first), word_shingles(second)) < 1


def test_nothing_else_is_a_near_duplicate(sample):
    _, _, lines, truth = sample
    rows = rows_of(lines, truth)
    planted = {tuple(sorted(group["ids"])) for kind in ("exact_duplicates", "near_duplicates", "contradictions")
               for group in truth[kind]}  # fmt: skip
    sets = [(name, word_shingles(row["input"])) for name, row in sorted(rows.items())]
    alike = {(a, b) for i, (a, x) in enumerate(sets) for b, y in sets[i + 1 :] if x & y and jaccard(x, y) >= 0.6}
    assert alike == planted


def test_contradictions_share_the_input_and_not_the_answer(sample):
    _, _, lines, truth = sample
    rows = rows_of(lines, truth)
    assert truth["contradictions"]
    for group in truth["contradictions"]:
        first, second = (rows[name] for name in group["ids"])
        assert first["input"] == second["input"]
        assert first["label"] != second["label"]


def test_answers_follow_the_rules(sample):
    _, _, lines, truth = sample
    queues = set()
    for row in rows_of(lines, truth).values():
        answer = dict(line.split(": ") for line in row["output"].split("\n"))
        assert list(answer) == ["category", "priority", "queue"]
        assert answer["category"] == row["label"]
        suffix = "-oncall" if answer["priority"] == "high" else ""
        assert answer["queue"] == QUEUE_OF[answer["category"]] + suffix
        queues.add(answer["queue"])
    assert queues == {name + suffix for name in QUEUE_OF.values() for suffix in ("", "-oncall")}


def test_broken_lines_are_broken(sample):
    _, _, lines, truth = sample
    kinds = {entry["kind"] for entry in truth["broken"]}
    assert kinds == {"bad_json", "bad_utf8", "null_text", "empty_text", "nested_junk", "not_an_object", "oversized"}
    for entry in truth["broken"]:
        line = lines[entry["line"]]
        if entry["kind"] == "oversized":
            assert OVERSIZED_LINE_BYTES * 0.8 < len(line) < OVERSIZED_LINE_BYTES * 1.6
            assert len(line) > 65_536
        elif entry["kind"] in {"bad_json", "bad_utf8"}:
            with pytest.raises(ValueError):
                json.loads(line)


def test_covers_needs_every_letter_and_digit():
    assert covers("+1 (2)", 10, [(11, 12), (14, 15)])
    assert not covers("+1 (2)", 10, [(11, 12)])


def test_score_counts_what_was_found_and_dropped(sample, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, _, lines, truth = sample
    rows = rows_of(lines, truth)
    gone = {group["ids"][1] for kind in ("exact_duplicates", "near_duplicates") for group in truth[kind]}
    missed = next(name for name in sorted(truth["pii"]) if name not in gone)
    kept, redactions = [], []
    for name, row in rows.items():
        if name in gone:
            continue
        text = row["input"]
        for value in reversed(truth["pii"].get(name, {"values": []})["values"]):
            if name != missed:
                text = text[: value["start"]] + "[X]" + text[value["end"] :]
                redactions.append({"id": name, "field": "messages[0].content", "start": value["start"],
                                   "end": value["end"]})  # fmt: skip
        kept.append({"id": name, "messages": [{"role": "user", "content": text}], "text": None})
    (tmp_path / "train").mkdir()
    pq.write_table(pa.Table.from_pylist(kept), tmp_path / "train" / "part-0.parquet")
    pq.write_table(pa.Table.from_pylist(redactions), tmp_path / "redactions.parquet")
    dropped = [{"id": name, "stage": "dedup", "reason": "near_duplicate"} for name in sorted(gone)]
    pq.write_table(pa.Table.from_pylist(dropped), tmp_path / "dropped.parquet")
    score = score_prepared(folder / "truth.json", tmp_path)
    lost = len(truth["pii"][missed]["values"])
    assert score["duplicates_dropped"] == 1.0
    assert score["pii_found"] == round(1 - lost / score["num_pii_planted"], 4)
    assert score["contradictions_held"] == 0.0
