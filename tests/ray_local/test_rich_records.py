"""Tool calls, reasoning, bad answers alone and plain text, from files through preparation into training and back."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from ftlib.config.evaluate import EvaluateConfig
from ftlib.config.loader import validate
from ftlib.config.prepare import PrepareConfig
from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.core.storage import read_json
from ftlib.data.prepare import prepare
from ftlib.data.prepared import open_prepared
from ftlib.data.records import tool_definitions, turns
from ftlib.evaluate.run import evaluate
from ftlib.models.chat import render_text
from ftlib.train.driver import run_training
from ftlib.train.preflight import check_run
from tests.tiny_model import write_tiny_model
from tests.tool_sets import CITIES, HERMES, PARTS, STATES, reasoning_rows, tool_rows


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("FTLIB_KEY", "0123456789abcdef")


@pytest.fixture(scope="module")
def calling_model(smollm2, tmp_path_factory) -> Path:
    """The tiny model with a template that knows tools and reasoning."""
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "calling", smollm2)
    (folder / "chat_template.jinja").write_text(HERMES)
    return folder


@pytest.fixture(scope="module")
def base_model(smollm2, tmp_path_factory) -> Path:
    """The tiny model without any chat template."""
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "base", smollm2)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = folder / "tokenizer_config.json"
    values = json.loads(config.read_text())
    values.pop("chat_template", None)
    config.write_text(json.dumps(values))
    return folder


def prepared(folder, rows, **sections):
    path = folder / "raw.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "input": {"paths": [str(path)]},
        "output": {"path": str(folder / "data"), "num_files": 2},
        "pii": {"profile": "none", "residual_sample": 0},  # loading the analyzers is most of a small run
        "dedup": {"enabled": False},
        "split": {"val_fraction": 0.1, "test_fraction": 0.1},
        "execution": {"num_partitions": 2, "num_workers": 1},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    prepare(validate(PrepareConfig, values))
    return folder / "data"


def records(data):
    return [row for split in ("train", "val", "test") for row in open_prepared(str(data)).table(split).to_pylist()]


def config(data, model, **sections):
    values = {
        "data": {"path": str(data)},
        "model": {"source": str(model)},
        "output": {"path": str(data.parent / "runs")},
        "method": {"rank": 4},
        "train": {"max_steps": 3, "global_batch_size": 4, "max_seq_len": 512, "precision": "float32"},
        "scaling": {"num_workers": 1},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return TrainConfig.model_validate(values)


@pytest.mark.parametrize("make", [tool_rows, reasoning_rows])
def test_tools_and_reasoning_reach_training_without_loss(ray_local, tmp_path, calling_model, make):
    raw = {row["id"]: row for row in make()}
    data = prepared(tmp_path, raw.values())
    tokenizer = AutoTokenizer.from_pretrained(calling_model)
    found = records(data)
    assert {row["id"] for row in found} == set(raw)
    for row in found:
        expected = tokenizer.apply_chat_template(
            raw[row["id"]]["messages"], tools=raw[row["id"]].get("tools"), tokenize=False
        )
        assert render_text(tokenizer, turns(row), tool_definitions(row)) == expected
    assert read_json(str(data / "report.json"))["left_out"] == []
    result = run_training(config(data, calling_model))
    counts = read_json(f"{result.path}/manifest.json")["counts"]
    num_train = open_prepared(str(data)).num_rows("train")
    assert (counts["num_rows"], counts["num_sequences"], counts["num_unsupervised"]) == (num_train, num_train, 0)
    stripped = sum(make is reasoning_rows and len(row["messages"]) > 2 for row in open_prepared(str(data)).rows(
        "train", ["messages"]))  # fmt: skip
    assert (counts["num_turns_unlearnt"], counts["num_reasoning_left_out"], counts["num_tools_left_out"]) == (
        stripped, stripped, 0,
    )  # fmt: skip


def test_undesirable_answers_alone_reach_kto(ray_local, tmp_path, tiny_model):
    rows = [
        {"id": str(n), "prompt": f"Where is the {PARTS[n % 10]} of order {n // 2}?", "label": n % 2 == 0,
         "completion": f"{STATES[n % 5]} in {CITIES[n % 8]}, row {n}"} for n in range(60)
    ]  # fmt: skip
    data = prepared(tmp_path, rows, dedup={"enabled": True})
    found = {row["id"]: row for row in records(data)}
    # A good and a bad answer to one prompt are no contradiction, and no duplicates.
    assert len(found) == 60
    for row in rows:
        record = found[row["id"]]
        assert record["label"] is None
        assert record["rejected"] == (None if row["label"] else row["completion"])
        assert [message["role"] for message in record["messages"]] == ["user", "assistant"][: 1 + row["label"]]
    result = run_training(config(data, tiny_model, objective={"kind": "kto"}))
    assert read_json(f"{result.path}/manifest.json")["counts"]["num_unsupervised"] == 0
    with pytest.raises(UserError, match=r"undesirable answer alone, which objective\.kind kto alone learns from"):
        run_training(config(data, tiny_model))


def test_plain_text_needs_no_chat_template(ray_local, tmp_path, base_model):
    rows = [
        {"id": str(n), "text": f"Order {n}: the {PARTS[n % 10]} is {STATES[n % 5]}, in {CITIES[n % 8]} since day {n}."}
        for n in range(60)
    ]  # fmt: skip
    data = prepared(tmp_path, rows)
    result = run_training(config(data, base_model, method={"kind": "lora"}, train={"max_seq_len": 32}))
    values = {
        "model": {"source": str(base_model), "adapter": result.path, "precision": "float32"},
        "data": {"path": str(data)},
        "output": {"path": str(tmp_path / "eval")},
        "tasks": ["perplexity"],
        "gates": [],
    }
    found = evaluate(validate(EvaluateConfig, values))
    table = pq.read_table(tmp_path / "eval" / "results.parquet").to_pylist()
    assert len({row["id"] for row in table}) == open_prepared(str(data)).num_rows("test")
    assert 1 < found["metrics"]["perplexity"]["value"] < 1e6 if isinstance(found["metrics"]["perplexity"], dict) else (
        1 < found["metrics"]["perplexity"] < 1e6
    )  # fmt: skip
    with pytest.raises(UserError, match="plain text is scored by"):
        evaluate(validate(EvaluateConfig, values | {"tasks": ["answer"], "output": {"path": str(tmp_path / "other")}}))


def test_conversations_need_a_chat_template(tmp_path, base_model, ray_local):
    data = prepared(tmp_path, reasoning_rows(40))
    with pytest.raises(UserError, match="no chat template, and the records are conversations"):
        check_run(config(data, base_model))


def test_strict_refuses_what_no_record_carries_on(ray_local, tmp_path):
    rows = [{**row, "note": "seen by nobody"} for row in reasoning_rows(20)]
    data = prepared(tmp_path, rows)
    report = read_json(str(data / "report.json"))
    assert [(row["name"], row["num_rows"]) for row in report["left_out"]] == [("note", 20)]
    assert "note: 20 rows" in str(report["findings"]) and "note" in (data / "report.html").read_text()
    with pytest.raises(UserError, match=r"input\.strict: no record carries on note"):
        prepared(tmp_path, rows, input={"paths": [str(tmp_path / "raw.jsonl")], "strict": True})
