"""What `inspect=N` prints: supervised tokens between marks, facts of each sample, counts of the whole split."""

import io
import re

import pytest

from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.train import inspection
from ftlib.train.inspection import inspect_samples
from tests.prepared_data import write_prepared
from tests.training_cases import conversations, preferences

TEXT = "before\x1b[31m<|im_end|> 😀 " + " ".join(f"word{number}" for number in range(60))


@pytest.fixture(scope="module")
def make_config(tmp_path_factory, tiny_model):
    """A configuration that reads 20 conversations, a text, and two rows that teach nothing."""
    folder = tmp_path_factory.mktemp("inspect")
    rows = conversations(20)
    silent = {"id": "silent", "messages": rows[0]["messages"][:1], "text": None, "weight": None}
    zero = rows[1] | {"id": "zero", "weight": 0.0}
    text = {"id": "text", "messages": None, "text": TEXT, "weight": None}
    write_prepared(folder / "data", train=[*rows, silent, zero, text])

    def make(**changes):
        base = {"data": {"path": str(folder / "data")}, "model": {"source": str(tiny_model)}}
        base |= {"output": {"path": "none"}, "train": {"max_seq_len": 128}}
        return TrainConfig.model_validate(base | changes)

    return make


def shown(config):
    out = io.StringIO()
    summary = inspect_samples(config, out)
    return out.getvalue(), summary


def test_supervised_tokens_stand_between_marks_and_answers_are_what_is_marked(make_config):
    page, _ = shown(make_config(inspect=30))
    for row in conversations(20):
        block = page.split(f" {row['id']}: ")[1].split("── ")[0]
        answers = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        assert re.findall("⟦(.*?)⟧", block) == [f"{answer}<|im_end|>" for answer in answers]
        assert f"weight {row['weight'] or 1:g}" in block


def test_text_shows_its_pieces_without_what_a_terminal_would_obey(make_config):
    page, _ = shown(make_config(inspect=30, train={"max_seq_len": 64}))
    block = page.split(" text: 64 tokens")[1].split("── ")[0]
    assert block.startswith(", 63 supervised, weight 1, piece 1 of ")
    assert "before⟦\\x1b[31m<|im_end|> 😀 word0" in block
    assert "\x1b" not in page
    assert "silent: left out, no assistant message" in page
    assert "zero: left out, weight 0" in page


def test_summary_equals_the_split_that_training_reads(make_config, tmp_path, tokenizer):
    from ftlib.data.pack import PackedSplit
    from ftlib.data.prepared import open_prepared
    from tests.training_cases import packed_split

    config = make_config(inspect=3, train={"max_seq_len": 64, "global_batch_size": 4})
    page, summary = shown(config)
    columns = ["id", "messages", "text", "weight", "label"]
    rows = list(open_prepared(config.data.path).rows("train", columns))
    split = PackedSplit(packed_split(tmp_path / "packed", tokenizer, 0, 64, rows=lambda *_: rows))
    counted = ("num_tokens", "num_packs", "num_sequences", "longest_pack")
    assert {name: summary[name] for name in counted} == {name: split.info[name] for name in counted}
    learnt = sum(int((split[index].weights > 0).sum()) for index in range(len(split)))
    assert summary["supervised_share"] == pytest.approx(learnt / split.info["num_tokens"], abs=1e-4)
    assert summary["fill"] == pytest.approx(split.info["num_tokens"] / (64 * len(split)), abs=1e-4)
    assert summary["num_steps"] == -(-len(split) // 4)
    assert summary["unsupervised"] == {"no assistant message": 1, "weight 0": 1}
    assert page.count("── ") == 3
    assert "2 rows supervise nothing (1 no assistant message, 1 weight 0)" in page
    assert all(word not in str(summary) for word in ("word1", "category"))


def test_preferences_show_both_answers(make_config, tmp_path):
    write_prepared(tmp_path / "data", train=preferences(5))
    config = make_config(inspect=1, data={"path": str(tmp_path / "data")}, objective={"kind": "dpo"})
    page, summary = shown(config)
    chosen, rejected = page.split("── ")[1:]
    assert ": chosen, " in chosen and "⟦category: " in chosen
    assert ": rejected, " in rejected and "⟦I cannot say, " in rejected
    assert (summary["num_sequences"], summary["num_packs"]) == (10, 5)


def test_large_splits_are_counted_on_a_sample_of_rows(make_config, monkeypatch):
    monkeypatch.setattr(inspection, "MAX_ROWS", 5)
    page, summary = shown(make_config(inspect=2))
    assert (summary["num_rows"], summary["num_rows_read"]) == (23, 5)
    assert "23 rows, counts of 5 of them" in page


def test_a_terminal_gets_colours(make_config):
    out = io.StringIO()
    out.isatty = lambda: True
    inspect_samples(make_config(inspect=30), out)
    assert "\x1b[1;32mcategory: " in out.getvalue()
    assert "⟦" not in out.getvalue()


def test_nothing_to_learn_from_is_an_error(make_config, tmp_path):
    rows = [row | {"weight": 0.0} for row in conversations(3)]
    write_prepared(tmp_path / "data", train=rows)
    with pytest.raises(UserError, match="no row of its train split supervises a token"):
        inspect_samples(make_config(inspect=1, data={"path": str(tmp_path / "data")}), io.StringIO())
