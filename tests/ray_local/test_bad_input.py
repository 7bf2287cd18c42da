"""Bad input of the jobs that connect to a cluster first: one message, exit code 2, no traceback."""

import pytest

from tests.unit.test_bad_input import environment, run, world  # noqa: F401

TRAIN = ["train.data.path={w}/set", "train.model.source=embedded:smollm2-135m", "train.output.path={w}/runs"]
SWEEP = ["output.path={w}/s", "space.method.rank={{type: int, low: 2, high: 4}}"]
EVALUATE = ["output.path={w}/e"]
BASE = "model.source=embedded:smollm2-135m"
DEPLOY = ["http.port=8765"]
STAGES = [
    "output.path={w}/p",
    "sweep={{train: {{model: {{source: m}}}}, space: {{method.rank: {{type: int, low: 1, high: 2}}}}}}",
]
CASES = [
    ("sweep", [*SWEEP, *TRAIN, "train.data.path={w}/nowhere"], "no such prepared dataset"),
    ("sweep", [*SWEEP, *TRAIN, "train.data.path={w}/manifest-list"], "not a manifest"),
    ("sweep", [*SWEEP, *TRAIN, "search.storage=nonsense"], "not a database URL"),
    ("sweep", [*SWEEP, *TRAIN, "search.storage=postgresql+nodriver://u@127.0.0.1:1/x"], "search.storage"),
    ("evaluate", [*EVALUATE, "model.source=m", "data.path={w}/nowhere"], "no such prepared dataset"),
    ("evaluate", [*EVALUATE, "model.source={w}/empty", "data.path={w}/set"], "empty"),
    ("evaluate", [*EVALUATE, BASE, "model.adapter={w}/empty", "data.path={w}/set"], "empty"),
    ("deploy", [*DEPLOY, "model.source={w}/empty"], "empty"),
    ("deploy", [*DEPLOY, "model.source={w}/file"], "file"),
    ("deploy", [*DEPLOY, BASE, "adapters=[{{name: a, path: {w}/empty}}]"], "empty"),
    ("deploy", [*DEPLOY, BASE, "adapters=[{{name: a, alias: b}}]", "registry.uri={w}/no"], "is registered"),
    ("pipeline", [*STAGES, "prepare.input.paths=[{w}/nowhere]", "evaluate.model.source=m"], "nowhere"),
    ("pipeline", [*STAGES, "prepare.input.pahts=[x]", "evaluate.model.source=m"], "did you mean input.paths"),
]  # fmt: skip


@pytest.mark.parametrize(("job", "words", "part"), CASES, ids=[f"{n}-{job}" for n, (job, _, _) in enumerate(CASES)])
def test_bad_input_is_one_message(ray_local, world, capsys, monkeypatch, job, words, part):  # noqa: F811
    code, result, log = run(job, [word.format(w=world) for word in words], capsys, monkeypatch)
    assert (code, result["status"]) == (2, "error"), log
    assert part in result["message"] and len(result["message"]) < 3000
    assert "Traceback" not in log and not (world / "out").exists()
