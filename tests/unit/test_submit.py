"""What `jobs.submit` sends: the entry point must rebuild exactly the configuration that was validated here."""

import asyncio
import shlex
from pathlib import Path

import pytest
import yaml

from ftlib.config.loader import absolute_paths, load_config
from ftlib.config.prepare import PrepareConfig
from ftlib.config.sweep import SweepConfig
from ftlib.core.errors import FtlibError, UserError
from ftlib.runtime import submit
from ftlib.runtime.submit import Outcome, _Follower, build_entrypoint, config_class, dashboard_address, difference

ROOT = Path(__file__).resolve().parents[2]


def rebuilt(entrypoint, cls, root):
    """The configuration that the cluster's side would build from an entry point."""
    words = shlex.split(entrypoint)
    assert words[:2] == ["python", "-m"]
    source = words[words.index("--config") + 1]
    overrides = words[words.index("--config") + 2 :]
    source = source if source.startswith("{") else str(root / source)
    return load_config(cls, source, overrides)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("overrides", [[], ["seed=3"], ["input.paths=[a b.jsonl,'c;d.csv']", "output.path=out"]])
def test_entrypoint_rebuilds_the_config_with_absolute_paths(tmp_path, monkeypatch, inside, overrides):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "it's.yaml"
    config.write_text(yaml.safe_dump({"input": {"paths": ["x.jsonl", "s3://b/y.jsonl"]}, "output": {"path": "o"}}))
    root = tmp_path if inside else tmp_path / "elsewhere"
    entrypoint = build_entrypoint("prepare", str(config), overrides, root)
    wanted = absolute_paths(load_config(PrepareConfig, str(config), overrides))
    assert rebuilt(entrypoint, PrepareConfig, root) == wanted
    assert ("{" in entrypoint) is not inside


def test_keys_with_dots_travel_as_inline_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "sweep.yaml"
    train = {"data": {"path": "d"}, "model": {"source": "embedded:smollm2-135m"}, "output": {"path": "r"}}
    space = {"method.rank": {"type": "int", "low": 1, "high": 4}}
    config.write_text(yaml.safe_dump({"train": train, "space": space, "output": {"path": "s"}}))
    overrides = ["space={method.rank: {type: int, low: 1, high: 8}}"]
    entrypoint = build_entrypoint("sweep", str(config), overrides, tmp_path)
    wanted = absolute_paths(load_config(SweepConfig, str(config), overrides))
    assert rebuilt(entrypoint, SweepConfig, tmp_path) == wanted and wanted.space["method.rank"].high == 8


def test_difference_applied_gives_the_wanted_values():
    given = {"a": {"b": 1, "c": [1, 2]}, "d": "x"}
    wanted = {"a": {"b": 2, "c": [1], "new": {"k": None}}, "d": "x", "e": False}
    changes = dict(difference(given, wanted))
    assert changes == {("a", "b"): 2, ("a", "c"): [1], ("a", "new"): {"k": None}, ("e",): False}
    assert difference(wanted, wanted) == []


def test_unknown_job_and_all_mistakes_at_once():
    with pytest.raises(UserError, match="did you mean prepare"):
        config_class("prepar")
    with pytest.raises(UserError) as caught:
        build_entrypoint("prepare", None, ["input.path=x", "seed=many"], ROOT)
    assert all(word in str(caught.value) for word in ("did you mean input.paths", "seed", "output: required"))


def test_result_is_taken_from_the_log_across_pieces_and_not_echoed():
    shown: list[str] = []
    follower = _Follower("prepare", shown.append)
    text = 'start\n{"job": "other", "status": "ok"}\n{"a": 1}\n{"job": "prepare", "status": "ok", "manifest": "/m"}\n'
    for piece in (text[:9], text[9:60], text[60:]):
        follower.feed(piece)
    follower.close()
    assert shown == ["start", '{"job": "other", "status": "ok"}', '{"a": 1}']
    assert Outcome(0, follower.result).result["manifest"] == "/m"


def test_no_dashboard_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="no cluster to submit to"):
        dashboard_address()
    with pytest.raises(UserError, match="no Ray dashboard answers at http://127"):
        dashboard_address("http://127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match="6379 is no dashboard address"):
        dashboard_address()


class _SilentDashboard:
    """Answers after `refusals` refused connections (stands for a dashboard that restarts)."""

    def __init__(self, refusals: int) -> None:
        self.left = refusals

    def get_job_info(self, submission_id: str) -> str:
        self.left -= 1
        if self.left >= 0:
            raise ConnectionError("refused")
        return f"record of {submission_id}"


def test_dashboard_that_is_away_for_a_while_does_not_lose_the_job(monkeypatch):
    assert asyncio.run(submit._job_info(_SilentDashboard(2), "s1")) == "record of s1"
    monkeypatch.setattr(submit, "_SILENCE_TIMEOUT_S", 0.5)
    with pytest.raises(FtlibError, match=r"refused.*ray job status s1"):
        asyncio.run(submit._job_info(_SilentDashboard(10**6), "s1"))
