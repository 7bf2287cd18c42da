"""The whole preparation on a real cluster: duplicates against brute force, the row account, and equal bytes."""

import hashlib
import itertools
import json
import random
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ftlib.config.loader import validate
from ftlib.config.prepare import PrepareConfig
from ftlib.core.errors import GateError, UserError
from ftlib.data.prepare import prepare
from ftlib.data.prepared import open_prepared
from ftlib.text.words import words

WORDS = [
    f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "ru", "sa", "ti", "vo") for b in ("ban", "den", "fil", "gor", "hum")
]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("FTLIB_KEY", "0123456789abcdef")
    # An editor that saves a module between two runs must not make them differ.
    monkeypatch.setattr("ftlib.registry.manifest.code_version", lambda: "code")


def run(inputs, output, **sections):
    values = {
        "input": {"paths": [str(path) for path in inputs]},
        "output": {"path": str(output), "num_files": 2},
        "pii": {"profile": "none", "residual_sample": 0},  # loading the analyzers is most of a small run
        "execution": {"num_partitions": 2, "num_workers": 1},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return prepare(validate(PrepareConfig, values))


def rows_of(path, name):
    return pq.read_table(Path(path) / name).to_pylist()


def kept(path):
    dataset = open_prepared(str(path))
    return {row["id"]: split for split in ("train", "val", "test") for row in dataset.table(split).to_pylist()}


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def sentence(rng, count=30):
    return " ".join(rng.choice(WORDS) + str(rng.randrange(30)) for _ in range(count))


def corpus(rng, num_families=25):
    """Families of a text, an exact copy in other case, and near copies of falling similarity."""
    rows = []
    for family in range(num_families):
        text = sentence(rng)
        for copy in range(rng.randint(1, 5)):
            rows.append(
                {"id": f"f{family}-{copy}", "text": text.upper() if copy == 1 else text, "subject": f"s{family % 20}"}
            )
            if copy:
                parts = text.split()
                parts[rng.randrange(len(parts)) if copy % 2 else -1] = rng.choice(WORDS)
                text = " ".join(parts)
    rng.shuffle(rows)
    return rows


def grams(text, n=5):
    found = words(text)
    return frozenset(tuple(found[i : i + n]) for i in range(max(len(found) - n + 1, 1)))


def similarity(left, right):
    return len(left & right) / len(left | right)


def test_near_duplicates_against_brute_force(ray_local, tmp_path):
    rows = corpus(random.Random(1))
    run([write_jsonl(tmp_path / "a.jsonl", rows)], tmp_path / "out", dedup={"threshold": 0.6})
    where = kept(tmp_path / "out")
    shingles = {row["id"]: grams(row["text"]) for row in rows}
    dropped = rows_of(tmp_path / "out", "dropped.parquet")
    assert {row["id"] for row in dropped} | set(where) == set(shingles)
    assert not {row["id"] for row in dropped} & set(where)
    assert {row["reason"] for row in dropped} == {"exact_duplicate", "near_duplicate"}
    for row in dropped:
        score = similarity(shingles[row["id"]], shingles[row["keeper_id"]])
        assert row["keeper_id"] in where
        assert row["score"] == pytest.approx(score)
        assert score >= 0.6
    assert all(similarity(shingles[a], shingles[b]) < 0.6 for a, b in itertools.combinations(where, 2))


def families(rng, sizes):
    """One text a family, and as many copies, each with one word more at the end."""
    rows = []
    for family, size in enumerate(sizes):
        text = sentence(rng, 40)
        for copy in range(size):
            text += f" extra{copy}" if copy else ""
            date = f"2024-01-{copy + 1:02d}"
            rows.append({"id": f"f{family}-{copy}", "text": text, "metadata": {"date": date, "team": f"t{family}"}})
    return rows


def test_the_chosen_record_of_a_cluster_is_kept_and_the_reference_goes_first(ray_local, tmp_path):
    """Longest and most recent are the last copies; a family that the reference holds is dropped as a whole."""
    rows = families(random.Random(7), [3, 3, 2, 1, 1, 1])
    corpus_row = {"id": "known", "text": rows[0]["text"] + " known", "label": "other"}
    reference = write_jsonl(tmp_path / "known.jsonl", [corpus_row])
    path = write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    no_split = {"val_fraction": 0, "test_fraction": 0}
    for policy in ("longest", "most_recent"):
        dedup = {"policy": policy, "recency_field": "date", "against": [str(reference)]}
        run([path], tmp_path / policy, dedup=dedup, split=no_split)
        assert set(kept(tmp_path / policy)) == {"f1-2", "f2-1", "f3-0", "f4-0", "f5-0"}
        dropped = {
            row["id"]: (row["reason"], row["keeper_id"]) for row in rows_of(tmp_path / policy, "dropped.parquet")
        }
        assert {dropped[f"f0-{copy}"] for copy in range(3)} == {("in_reference", "known")}
        assert {dropped["f1-0"], dropped["f1-1"]} == {("near_duplicate", "f1-2")}
    report = json.loads((tmp_path / "longest" / "report.json").read_text())
    assert report["duplicates"]["num_in_reference"] == 3 and report["summary"]["accounted"]
    assert report["duplicates"]["expected_recall"]["1.00"] == 1
    manifest = open_prepared(str(tmp_path / "longest")).manifest
    assert [file["source"] for file in manifest["references"]["dedup.against"]] == ["known.jsonl"]


def test_weights_time_age_groups_and_contamination(ray_local, tmp_path):
    """One dataset under all options that act after deduplication; each row's fate follows from its family."""
    rows = families(random.Random(8), [4, 2, 1, 1, 1, 1, 1, 1])
    for number, row in enumerate(rows):
        row["metadata"]["date"] = f"2024-02-{number + 1:02d}"
        row["label"] = "rare" if number < 6 else "common"
    rows[7]["metadata"]["date"] = "2019-05-05"
    rows[11]["metadata"]["team"] = rows[10]["metadata"]["team"]
    benchmark = write_jsonl(tmp_path / "bench.jsonl", [{"text": "Asked: " + " ".join(rows[6]["text"].split()[3:25])}])
    result = run(
        [write_jsonl(tmp_path / "in" / "a.jsonl", rows)],
        tmp_path / "out",
        dedup={"action": "weight"},
        filter={"max_age_days": 365, "date_field": "date", "reference_date": "2024-03-01"},
        split={"by_time": "date", "group_column": "team", "val_fraction": 0, "test_fraction": 0.2},
        decontaminate={"paths": [str(benchmark)], "against_test": True},
        mix={"weights": {"common": 3}, "replay": {"path": str(benchmark), "fraction": 0.3}},
    )
    where = kept(tmp_path / "out")
    assert {id_ for id_, split in where.items() if split == "test"} == {rows[10]["id"], rows[11]["id"]}
    fates = {row["id"]: (row["stage"], row["reason"]) for row in rows_of(tmp_path / "out", "dropped.parquet")}
    assert fates == {rows[6]["id"]: ("decontaminate", "shared_ngram"), rows[7]["id"]: ("filter", "stale")}
    dataset = open_prepared(str(tmp_path / "out"))
    weights = {row["id"]: row["weight"] for split in ("train", "test") for row in dataset.table(split).to_pylist()}
    assert [weights[row["id"]] for row in rows[:6]] == [0.25] * 4 + [0.5] * 2
    assert [weights[row["id"]] for row in rows[8:]] == [3, 3, 1, 1]
    assert result["counts"]["dropped"] == {"decontaminate/shared_ngram": 1, "filter/stale": 1}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["mix"] == [
        {"name": "common", "num_rows": 2, "weight": 6.0},
        {"name": "rare", "num_rows": 6, "weight": 2.0},
    ]
    assert report["replay"] == {"source": "bench.jsonl", "fraction": 0.3} and report["summary"]["accounted"]
    assert dataset.manifest["mix"]["replay"] == {"fraction": 0.3}


def test_without_dedup_duplicates_stay_and_share_a_split(ray_local, tmp_path):
    rows = corpus(random.Random(2))
    config = {
        "dedup": {"enabled": False},
        "split": {"val_fraction": 0.2, "test_fraction": 0.3, "group_by_subject": False},
    }
    run([write_jsonl(tmp_path / "a.jsonl", rows)], tmp_path / "out", **config)
    where = kept(tmp_path / "out")
    assert set(where) == {row["id"] for row in rows}
    shingles = {row["id"]: grams(row["text"]) for row in rows}
    close = [(a, b) for a, b in itertools.combinations(where, 2) if similarity(shingles[a], shingles[b]) >= 0.8]
    assert close and all(where[a] == where[b] for a, b in close)
    assert set(where.values()) == {"train", "val", "test"}


def test_records_that_redaction_makes_alike_share_a_split(ray_local, tmp_path):
    rng = random.Random(3)
    text = sentence(rng, 10)
    rows = [
        {"id": f"m{i}", "text": " ".join(f"{word} user{i}{j}@mail{i}.com" for j, word in enumerate(text.split()))}
        for i in range(6)
    ]
    rows += [{"id": f"o{i}", "text": sentence(rng)} for i in range(14)]
    path, fractions = write_jsonl(tmp_path / "a.jsonl", rows), {"val_fraction": 0.2, "test_fraction": 0.3}
    run([path], tmp_path / "out", pii={"profile": "fast"}, split=fractions)
    where = kept(tmp_path / "out")
    assert len(where) == 20 and set(where.values()) == {"train", "val", "test"}
    assert len({where[f"m{i}"] for i in range(6)}) == 1


def messy(rng):
    """Rows of every fate."""
    good = [
        {"id": f"g{i}", "input": sentence(rng, 12), "output": sentence(rng, 6), "label": "ab"[i % 2]} for i in range(40)
    ]
    conflict = [
        {"id": f"c{i}", "input": "the very same question is asked", "output": f"answer {i} to it"} for i in range(3)
    ]
    twice = [{**good[0]}, {**good[1], "id": "other"}, {**good[1]}]
    short = [{"id": "short", "input": "a", "output": "b"}]
    private = [
        {"id": "bob@example.com", "input": f"{sentence(rng, 12)} bob@example.com", "output": "write to bob@example.com"}
    ]
    broken = [b"{", b'{"input": "\xff"}', {"input": None, "output": "x"}, {"input": {"a": 1}, "output": "x"}]
    rows = [*good, *conflict, *twice, *short, *private, *broken]
    rng.shuffle(rows)
    return rows


def test_every_row_ends_in_exactly_one_place(ray_local, tmp_path):
    rows = messy(random.Random(4))
    result = run([write_jsonl(tmp_path / "a.jsonl", rows)], tmp_path / "out")
    out = tmp_path / "out"
    counts = result["counts"]
    assert counts["num_in"] == len(rows) == counts["num_out"] + counts["num_dropped"] + counts["num_quarantined"]
    quarantined = rows_of(out, "quarantine.parquet")
    assert sorted(row["error"] for row in quarantined) == ["bad_json", "bad_utf8", "nested_text", "null_text"]
    assert all(row["raw"] is None and len(row["content_hash"]) == 32 for row in quarantined)
    dropped = rows_of(out, "dropped.parquet")
    fates = sorted((row["stage"], row["reason"]) for row in dropped)
    assert fates == [("dedup", "exact_duplicate")] * 3 + [("filter", "too_short")] + [("review", "label_conflict")] * 3
    assert len(kept(out)) == counts["num_out"] == 41
    reviewed = [json.loads(line) for line in (out / "review.jsonl").read_text().splitlines()]
    assert [row["data"]["id"] for row in reviewed] == ["c0", "c1", "c2"]
    report = json.loads((out / "report.json").read_text())
    assert report["summary"]["accounted"] is True
    assert report["label_conflicts"] == [{"labels": ["(answers differ)"], "num_groups": 1, "num_rows": 3}]


def test_no_pii_in_any_file_and_hashed_ids_are_consistent(ray_local, tmp_path):
    rows = messy(random.Random(4))
    private = next(row for row in rows if isinstance(row, dict) and row.get("id") == "bob@example.com")
    rows.append({**private, "id": "copy"})
    run([write_jsonl(tmp_path / "a.jsonl", rows)], tmp_path / "out", pii={"profile": "fast"})
    (keeper,) = (row["keeper_id"] for row in rows_of(tmp_path / "out", "dropped.parquet") if row["id"] == "copy")
    assert keeper in kept(tmp_path / "out") and "@" not in keeper
    assert {row["id"] for row in rows_of(tmp_path / "out", "redactions.parquet")} == {keeper}
    for path in (tmp_path / "out").rglob("*"):
        if path.suffix == ".parquet":
            assert "bob@example.com" not in str(pq.read_table(path).to_pylist())
        elif path.is_file():
            assert b"bob@example.com" not in path.read_bytes()


def test_manifest_holds_every_file(ray_local, tmp_path):
    run([write_jsonl(tmp_path / "a.jsonl", messy(random.Random(4)))], tmp_path / "out")
    manifest = open_prepared(str(tmp_path / "out")).manifest
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json", "_SUCCESS"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def contents(path):
    found = {str(file.relative_to(path)): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}
    manifest = json.loads(found.pop("manifest.json"))
    manifest.pop("timing")
    return found, manifest


def test_bytes_depend_on_rows_alone(ray_local, tmp_path):
    """Another place, order of files, chunks, blocks, partitions and workers: the same bytes."""
    rows = messy(random.Random(4)) + corpus(random.Random(5), 10)
    half = len(rows) // 2
    first = [
        write_jsonl(tmp_path / "x" / name, part) for name, part in (("1.jsonl", rows[:half]), ("2.jsonl", rows[half:]))
    ]
    second = [tmp_path / "elsewhere" / "y" / path.name for path in first]
    for a, b in zip(first, second, strict=True):
        b.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(a, b)
    run(first, tmp_path / "out1", pii={"profile": "fast"})
    run(
        second,
        tmp_path / "out2",
        input={"paths": [str(path) for path in reversed(second)], "chunk_bytes": 700},
        execution={"num_partitions": 5, "num_workers": 2, "rows_per_block": 7},
        pii={"profile": "fast", "batch_size": 3},
    )
    one, two = contents(tmp_path / "out1"), contents(tmp_path / "out2")
    assert one[1] == two[1]
    assert one[0].keys() == two[0].keys()
    assert [name for name in one[0] if one[0][name] != two[0][name]] == []


def test_the_next_of_a_cluster_takes_a_lost_keepers_place(ray_local, tmp_path):
    """Only the keeper's own spelling fails the filter: its copies pass, and are compared with each other anew."""
    rng = random.Random(6)
    text = sentence(rng, 40)
    spoiled = text.replace(" ", " !!!!!!!!!!! ")
    tail = text.rsplit(" ", 1)[0]
    rows = [
        {"id": "spoiled", "text": spoiled},
        {"id": "plain", "text": text},
        {"id": "copy", "text": text.upper()},
        {"id": "near", "text": f"{tail} changed"},
        *({"id": f"o{i}", "text": sentence(rng)} for i in range(5)),
    ]
    result = run([write_jsonl(tmp_path / "a.jsonl", rows)], tmp_path / "out")
    dropped = {row["id"]: (row["reason"], row["keeper_id"]) for row in rows_of(tmp_path / "out", "dropped.parquet")}
    assert dropped == {
        "spoiled": ("symbols", None),
        "copy": ("exact_duplicate", "plain"),
        "near": ("near_duplicate", "plain"),
    }
    assert set(kept(tmp_path / "out")) == {"plain", *(f"o{i}" for i in range(5))}
    assert result["counts"]["num_in"] == 9


def test_a_second_run_finds_the_result(ray_local, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", messy(random.Random(4)))
    assert run([path], tmp_path / "out")["reused"] is False
    before = contents(tmp_path / "out")
    assert run([path], tmp_path / "out", execution={"num_workers": 2})["reused"] is True
    (tmp_path / "out" / "_SUCCESS").unlink()
    assert run([path], tmp_path / "out")["reused"] is False
    assert contents(tmp_path / "out") == before
    assert run([path], tmp_path / "out", seed=1)["reused"] is False


def test_an_address_of_a_file_system(ray_local, tmp_path):
    """`local://` goes the way of object stores: no rename, the manifest last, the older dataset cleared."""
    rows = messy(random.Random(4))
    write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    out = f"local://{tmp_path}/out"
    run([f"local://{tmp_path}/in/*.jsonl"], out)
    (tmp_path / "out" / "train" / "part-99999.parquet").write_bytes(b"of an older dataset")
    result = run([f"local://{tmp_path}/in"], out, seed=5)
    assert result["counts"]["num_in"] == len(rows)
    assert not (tmp_path / "out" / "train" / "part-99999.parquet").exists()
    assert open_prepared(out).table("train").num_rows == result["counts"]["splits"]["train"]
    assert open_prepared(out).read("train").count() == result["counts"]["splits"]["train"]


@pytest.mark.parametrize(
    ("rows", "config", "expected"),
    [
        ([{"text": "a"}, {"text": "b"}], {}, "no rows are left to train on: too_short 2"),
        ([b"{"] * 3 + [{"text": "a good long enough row"}], {}, "3 of 4 rows are broken"),
        ([{"text": "  "}] * 3, {}, "none of the 3 rows is a record"),
        ([{"input": "same question here", "output": f"{i}"} for i in range(3)], {}, "no rows are left"),
    ],
)
def test_nothing_usable_writes_nothing(ray_local, tmp_path, rows, config, expected):
    with pytest.raises(UserError, match=expected):
        run([write_jsonl(tmp_path / "in" / "a.jsonl", rows)], tmp_path / "out", **config)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_other_files_are_never_replaced(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", messy(random.Random(4)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(UserError, match="holds other files"):
        run([path], tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").exists()


def test_what_a_second_detector_still_finds_is_reported_and_can_refuse_the_dataset(ray_local, tmp_path):
    rows = [
        {"id": str(i), "text": f"Number {i}: {sentence(random.Random(i), 8)}, SSN 316-46-84{i:02}."} for i in range(8)
    ]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    blind = {"profile": "fast", "score_threshold": 0.99, "residual_sample": None}
    run([source], tmp_path / "reported", pii=blind)
    report = json.loads((tmp_path / "reported" / "report.json").read_text())
    assert report["residual"]["num_scanned"] == report["residual"]["num_records"] == 8
    assert {"entity": "US_SSN", "num_findings": 8, "num_records": 8} in report["residual"]["entities"]
    with pytest.raises(GateError, match="max_residual") as refused:
        run([source], tmp_path / "refused", pii={**blind, "max_residual": 0.5})
    assert refused.value.result["path"] == str(tmp_path / "refused")
    assert (tmp_path / "refused" / "report.html").exists()
    with pytest.raises(UserError, match="_SUCCESS"):
        open_prepared(str(tmp_path / "refused"))
    run([source], tmp_path / "refused", pii={"profile": "fast", "max_residual": 0.0})
    assert open_prepared(str(tmp_path / "refused")).manifest["counts"]["num_out"] == 8
