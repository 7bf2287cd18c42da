"""An evaluation on a real Ray cluster with a random model: what it writes, and that nothing but the rows decides it."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from ftlib.config.evaluate import EvaluateConfig
from ftlib.config.loader import validate
from ftlib.core.errors import GateError, UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.evaluate.run import evaluate
from tests.evaluation_cases import PATTERN, write_prepared
from tests.inference_cases import generate_alone, save_varied_model


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = save_varied_model(tokenizer, tmp_path_factory.mktemp("evaluated"), num_adapters=1)
    write_prepared(folder / "data")
    return folder


@pytest.fixture(scope="module")
def values(folder):
    return {
        "model": {
            "source": str(folder / "base"), "adapter": str(folder / "adapter0"), "precision": "float32"
        },
        "data": {"path": str(folder / "data")},
        "output": {"path": str(folder / "eval")},
        "tasks": [{"kind": "answer", "pattern": PATTERN, "max_new_tokens": 6}, "perplexity"],
        "baseline": {"num_examples": 2, "instruction": "One line."},
        "batch_size": 5,
    }  # fmt: skip


@pytest.fixture(scope="module")
def result(ray_local, values):
    return evaluate(validate(EvaluateConfig, values))


def test_answers_and_scores_are_the_models_own(result, folder, tokenizer):
    """Every answer equals `generate` on the same prompt alone; every log-probability a plain forward pass."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    table = pq.read_table(folder / "eval" / "results.parquet").to_pylist()
    assert len(table) == 12 * 2 * 2
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, folder / "adapter0")
    rows = {r["id"]: r for r in pq.read_table(folder / "data" / "test" / "part-0000.parquet").to_pylist()}
    stops = frozenset({tokenizer.eos_token_id})
    for row in table:
        if row["system"] != "candidate":
            continue
        messages = rows[row["id"]]["messages"]
        text = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        if row["task"] == "answer":
            expected = [token for token in generate_alone(tuned, prompt, 6, stops) if token not in stops]
            assert row["answer"] == tokenizer.decode(expected, skip_special_tokens=True)
            assert row["scores"]["exact_match"] == float(row["answer"].split() == row["reference"].split())
        else:
            answer = [*tokenizer(row["reference"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            with torch.inference_mode():
                log_probs = tuned(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            total = sum(log_probs[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))
            assert row["scores"]["log_prob"] == pytest.approx(total, abs=5e-3)
            assert row["scores"]["num_tokens"] == len(answer)


def test_metrics_follow_from_the_results(result, folder):
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    table = pq.read_table(folder / "eval" / "results.parquet").to_pylist()
    for system, prefix in (("candidate", ""), ("baseline", "baseline_")):
        scores = [r["scores"] for r in table if r["system"] == system and r["task"] == "perplexity"]
        total = sum(s["log_prob"] for s in scores) / sum(s["num_tokens"] for s in scores)
        assert metrics[f"{prefix}perplexity"]["value"] == pytest.approx(np.exp(-total))
    gain = metrics["baseline_perplexity"]["value"] - metrics["perplexity"]["value"]
    assert metrics["perplexity_gain"]["value"] == pytest.approx(gain)
    for entry in metrics.values():
        low, high = entry["interval"]
        assert low <= entry["value"] <= high and entry["n"] == 12


def test_manifest_names_what_was_scored(result, folder):
    manifest = json.loads((folder / "eval" / "manifest.json").read_text())
    assert manifest["model"]["adapter_sha256"] == folder_sha256(folder / "adapter0")
    assert set(manifest["files"]) == {"results.parquet", "metrics.json", "gates.json", "report.html"}
    assert manifest["counts"]["num_rows"] == 12 and len(manifest["examples"]) == 2
    assert all(example.startswith("train-") for example in manifest["examples"])


def test_a_finished_evaluation_is_found(result, values, folder):
    before = (folder / "eval" / "manifest.json").stat().st_mtime_ns
    again = evaluate(validate(EvaluateConfig, values))
    assert again["found"] and not result["found"]
    assert again["metrics"] == result["metrics"]
    assert (folder / "eval" / "manifest.json").stat().st_mtime_ns == before


def test_workers_and_order_of_work_change_nothing(result, values, folder):
    evaluate(validate(EvaluateConfig, {**values, "num_workers": 2, "output": {"path": str(folder / "two")}}))
    first, second = (pq.read_table(folder / name / "results.parquet").to_pylist() for name in ("eval", "two"))
    for one, two in zip(first, second, strict=True):
        one_scores, two_scores = one.pop("scores"), two.pop("scores")
        assert one == two
        for name, value in one_scores.items():
            assert two_scores[name] == (None if value is None else pytest.approx(value, abs=1e-4))


def test_a_failed_gate(ray_local, values, folder):
    changed = {
        **values,
        "output": {"path": str(folder / "gated")},
        "data": {**values["data"], "max_rows": 3},
        "tasks": ["perplexity"],
        "gates": [{"metric": "perplexity", "max": 1.0}],
        "enforce_gates": True,
    }
    with pytest.raises(GateError) as refused:
        evaluate(validate(EvaluateConfig, changed))
    assert refused.value.result["gates_passed"] is False
    (gate,) = json.loads((folder / "gated" / "gates.json").read_text())
    assert gate["passed"] is False and gate["low"] > 1.0, "the evaluation is written all the same"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"path": "HERE/nowhere"}}, "no such prepared dataset"),
        ({"model": {"source": "HERE/nowhere"}}, "no such folder"),
        ({"model": {"source": "HERE/base", "adapter": "HERE/base"}}, "neither an adapter"),
        ({"model": {"source": "SMOLLM2", "adapter": "HERE/adapter0"}}, "another base"),
        ({"output": {"path": "HERE/data"}}, "holds a prepared"),
        ({"output": {"path": "HERE/adapter0"}}, "is not an evaluation"),
        ({"use_gpu": True, "output": {"path": "HERE/gpu"}}, "no GPU"),
    ],
)
def test_what_is_wrong_is_said(ray_local, values, folder, smollm2, change, message):
    change = json.loads(json.dumps(change).replace("HERE", str(folder)).replace("SMOLLM2", str(smollm2)))
    with pytest.raises(UserError, match=message):
        evaluate(validate(EvaluateConfig, {**values, **change}))
