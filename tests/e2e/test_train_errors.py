"""`python -m jobs.train` with mistakes: exit 2, one message, nothing left behind."""

import json
import resource
import shutil
import subprocess
import sys

import pytest

from tests.prepared_data import small_prepared


@pytest.fixture(scope="module")
def root(tmp_path_factory, tiny_model):
    """A prepared dataset and models of several faults."""
    root = tmp_path_factory.mktemp("errors")
    small_prepared(root / "data")
    small_prepared(root / "unfinished")
    (root / "unfinished" / "_SUCCESS").unlink()
    for name in ("no-weights", "no-template"):
        shutil.copytree(tiny_model, root / name)
    (root / "no-weights" / "model.safetensors").unlink()
    (root / "no-template" / "chat_template.jinja").unlink()
    return root


def train(root, tiny_model, *overrides):
    base = [f"data.path={root}/data", f"model.source={tiny_model}", f"output.path={root}/runs", "train.max_seq_len=128"]
    command = [sys.executable, "-m", "jobs.train", *base, *(override.format(root=root) for override in overrides)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.path={root}/unfinished", "not a finished prepared dataset"),
        ("data.path={root}/absent", "no such prepared dataset"),
        ("model.source={root}/no-weights", "no weights in *.safetensors"),
        ("model.source={root}/no-template", "no chat template"),
        ("method.rank=17", "method.rank 17 is above the size of the model's smallest layer; at most 16"),
        ("train.max_seq_len=513", "train.max_seq_len 513 is above the model's limit of 512"),
        ("method.kind=qlora", "method.kind qlora needs GPUs"),
        ("train.precision=float16", "needs parallel.strategy ddp; with ZeRO take bfloat16 or float32"),
        ("scaling.num_workers=3", "cannot be divided among scaling.num_workers 3"),
    ],
)
def test_mistake_ends_with_exit_2_before_anything_starts(root, tiny_model, override, message):
    done, result = train(root, tiny_model, override)
    assert done.returncode == 2
    assert result["status"] == "error"
    assert message in result["message"]
    assert "Traceback" not in done.stderr
    assert not (root / "runs").exists()


def test_dry_run_needs_no_cluster_and_leaves_nothing(root, tiny_model):
    done, result = train(root, tiny_model, "dry_run=true")
    assert done.returncode == 0
    assert result["plan"]["num_workers"] == 1
    assert not (root / "runs").exists()


def test_run_that_cannot_fit_ends_with_the_estimate_and_ways_to_fit(root, tiny_model):
    done, result = train(root, tiny_model, "scaling.num_workers=4096", "train.global_batch_size=4096")
    assert done.returncode == 2
    assert result["message"].startswith("no memory: each worker needs about")
    assert "scaling.num_workers=" in result["message"]
    assert not (root / "runs").exists()


def test_inspection_prints_samples_before_the_result_and_logs_no_text(root, tiny_model):
    done, result = train(root, tiny_model, "inspect=2")
    assert done.returncode == 0
    assert done.stdout.count("⟦category: ") == 2
    assert result["summary"]["num_rows"] == 40
    assert "category" not in done.stderr and "category" not in json.dumps(result)
    assert not (root / "runs").exists()


def test_help_answers_within_a_second_of_processor_time():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "jobs.train", "--help"], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "method" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
