"""Records of one meaning stay on one side of the split, whatever the blocks; whole jobs with a small random encoder."""

import json
import random

import pytest

from ftlib.core.errors import UserError
from tests.ray_local.test_prepare import kept, key, run, sentence, write_jsonl  # noqa: F401
from tests.tiny_encoder import save_tiny_encoder


def test_records_of_one_meaning_share_a_side(ray_local, tmp_path):
    (tmp_path / "model").mkdir()
    model = save_tiny_encoder(tmp_path / "model")
    rng = random.Random(1)
    rows = []
    for number in range(40):
        first = sentence(rng, 12)
        # What the encoder does not read cannot tell records apart: the same meaning in other words.
        rows += [{"id": f"{number}-{part}", "text": f"{first} {sentence(rng, 60)}"} for part in range(3)]
    path = write_jsonl(tmp_path / "in" / "a.jsonl", rows)
    semantic = {"model": model, "threshold": 0.9999, "max_tokens": 24, "num_cells": 3}
    found = {}
    for name, execution in (("a", {"rows_per_block": 7, "num_partitions": 3}), ("b", {"num_partitions": 1})):
        run([path], tmp_path / name, dedup={"semantic": semantic}, execution=execution)
        report = json.loads((tmp_path / name / "report.json").read_text())
        found[name] = kept(tmp_path / name), report["semantic"]
    assert found["a"] == found["b"]
    splits, figures = found["a"]
    assert len(splits) == len(rows) and len(set(splits.values())) == 3
    assert all(len({splits[f"{number}-{part}"] for part in range(3)}) == 1 for number in range(40))
    assert figures["num_records"] == len(rows) and figures["num_alike"] >= len(rows)
    assert 1 <= figures["effective_num_cells"] <= figures["num_cells"] == 3
    assert figures["mean_distance_to_nearest"] == pytest.approx(0, abs=1e-3)
    run([path], tmp_path / "off")
    apart = kept(tmp_path / "off")
    assert any(len({apart[f"{number}-{part}"] for part in range(3)}) > 1 for number in range(40))


def test_a_folder_without_a_model_ends_the_job_before_it_reads(ray_local, tmp_path):
    path = write_jsonl(tmp_path / "in" / "a.jsonl", [{"text": "some text that is long enough"}])
    with pytest.raises(UserError, match=r"dedup\.semantic\.model"):
        run([path], tmp_path / "out", dedup={"semantic": {"model": str(tmp_path)}})
    assert not (tmp_path / "out").exists()
