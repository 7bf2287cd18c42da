"""The page of a run: what it says for each way a run may end, curves that keep their spikes, nothing from outside."""

import json
import re

import pytest

from ftlib.config.train import TrainConfig
from ftlib.core.page import HEIGHT, WIDTH, Axis, thin_out
from ftlib.train.metrics import MetricsWriter, read_metrics
from ftlib.train.report import RunFacts, render, smooth, write_report

COUNTS = {
    "num_rows": 1200, "num_unsupervised": 3, "num_truncated": 17, "num_sequences": 1197, "num_packs": 160,
    "num_tokens": 150_000, "longest_pack": 1024, "num_supervised": 30_000, "num_steps": 60,
}  # fmt: skip


def train(step, **more):
    base = {"kind": "train", "step": step, "loss": 3 / step, "lr": 1e-4, "grad_norm": 1.5, "tokens": 2500}
    return base | {"tokens_per_s": 250.0, "seconds": 10.0, "epoch": step / 60, "memory_gb": 1.25} | more


def val(step, loss):
    return {"kind": "val", "step": step, "val_loss": loss, "val_perplexity": 2.0, "seconds": 5.0}


def facts(**changes):
    config = TrainConfig.model_validate(
        {"data": {"path": "/d"}, "model": {"source": "<script>alert(1)</script>"}, "output": {"path": "/o"}}
    )
    base = {"run_id": "r-1", "status": "finished", "config": config.resolved(), "counts": COUNTS}
    return RunFacts(**base | {"base_fingerprint": "abc", "best": "step-40"} | changes)


def text(page):
    """What a reader sees, in one line."""
    return " ".join(re.sub(r"<[^>]+>", " ", page[page.index("<body>") :]).split())


def test_finished_run_shows_losses_counts_settings_best_checkpoint_and_resumes():
    records = [train(step) for step in range(1, 61)]
    records[20:20] = [val(20, 0.9), {"kind": "resume", "step": 20}]
    page = render(facts(), [*records, val(40, 0.5), val(60, 0.6)])
    seen = text(page)
    assert "finished after 60 steps" in seen
    assert "0.5 validation loss of the best checkpoint" in seen
    assert "0.05 training loss of the last step" in seen
    assert "150,000 tokens read" in seen
    assert "1 resumed at step 20" in seen
    assert "supervised tokens 30,000 (20.0%)" in seen
    assert "fill of the packs 91.6%" in seen
    assert "40 0.5 2 best" in seen
    assert "optim.learning_rate 0.0002" in seen
    titles = re.findall(r'aria-label="([^"]+)"', page)
    assert titles == [
        "Loss", "Learning rate", "Gradient norm, before clipping", "Tokens per second", "Peak memory of rank 0, GB",
    ]  # fmt: skip
    assert page.count('<line class="rule"') == 2 * len(titles)  # resume and best checkpoint, in each


def test_page_needs_nothing_from_outside_and_escapes():
    page = render(facts(), [train(1), train(2), val(2, 0.5)])
    assert "http" not in page
    assert "<script" not in page
    assert not re.search(r"<(img|link|iframe)|@import|url\(", page)


def test_every_point_lies_inside_its_plot():
    page = render(facts(), [train(step, loss=100.0 if step == 7 else 1.0) for step in range(1, 31)])
    points = [
        tuple(map(float, pair.split(","))) for line in re.findall(r'points="([^"]+)"', page) for pair in line.split()
    ]
    assert points
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "stopped"}, "stopped early after 2 of 60 steps"),
        ({"status": "failed", "best": None}, "failed after 2 of 60 steps; run it again"),
        (
            {"status": "diverged", "best": None, "last": {"step": 3.0, "loss": float("nan"), "grad_norm": 2.0}},
            "diverged at step 3 of 60 (loss nan, grad_norm 2.0); no result",
        ),
    ],
)
def test_other_ends_say_so(changes, said):
    assert said in text(render(facts(**changes), [train(1), train(2)]))


def test_runs_without_a_step_or_a_validation_have_a_page_too():
    assert "No step was finished" in text(render(facts(status="failed", best=None), []))
    assert "Validations" not in text(render(facts(), [train(1)]))


def test_other_figures_of_the_steps_get_a_plot_of_their_own():
    page = render(facts(), [train(step, epsilon=step / 10) for step in (1, 2, 3)])
    assert 'aria-label="epsilon"' in page


def test_a_broken_page_costs_no_run_its_result(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 1}) + "\n")
    write_report(tmp_path, facts())
    assert not (tmp_path / "report.html").exists()
    assert "report.html could not be written" in caplog.text


def test_writer_notes_resumes_and_drops_what_came_after_the_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write({"kind": "train", "step": step})
    MetricsWriter(tmp_path, 2).write({"kind": "train", "step": 3})
    found = [(record["kind"], record["step"]) for record in read_metrics(tmp_path)]
    assert found == [("train", 1), ("train", 2), ("resume", 2), ("train", 3)]


def test_thinned_curves_keep_spikes_and_order():
    points = [(float(step), 1.0) for step in range(5000)]
    points[1234], points[4321] = (1234.0, 9.0), (4321.0, -9.0)
    kept = thin_out(points, 100)
    assert len(kept) <= 110
    assert {points[1234], points[4321]} <= set(kept)
    assert kept == sorted(kept)


def test_smoothing_keeps_straight_lines_and_halves_noise():
    assert smooth([(x, 2 * x) for x in range(50)]) == [(x, pytest.approx(2 * x)) for x in range(50)]
    noisy = smooth([(x, (-1) ** x) for x in range(600)])
    assert max(abs(y) for _, y in noisy[20:-20]) < 0.1


def test_small_values_have_short_labels():
    labels = [tick.label for tick in Axis([0.0, 2e-4], 0, 100).ticks()]
    assert labels == ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]
