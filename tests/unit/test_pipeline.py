"""The pipeline's stages are the same work as the single jobs' files: one description, two ways to run it."""

from pathlib import Path

import pytest

from ftlib.config.loader import load_config, validate
from ftlib.config.pipeline import PipelineConfig, stage_configs
from ftlib.core.errors import UserError
from jobs.pipeline import CLASSES

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs" / "quickstart"


@pytest.mark.parametrize("job", list(CLASSES))
def test_each_stage_equals_the_file_of_its_job(job):
    pipeline = load_config(PipelineConfig, str(CONFIGS / "pipeline.yaml"))
    stage = validate(CLASSES[job], stage_configs(pipeline)[job])
    alone = load_config(CLASSES[job], str(CONFIGS / f"{job}.yaml"))
    same = {"seed"} if job in ("promote", "deploy") else set()  # their work has nothing random
    assert stage.model_dump(exclude=same) == alone.model_dump(exclude=same)


def test_a_stage_s_own_paths_win_and_nothing_is_served_without_deploy():
    pipeline = load_config(
        PipelineConfig,
        str(CONFIGS / "pipeline.yaml"),
        ["output.path=/o", "promote.registry.uri=http://mlflow:5000", "deploy=null", "cluster.address=h:1"],
    )
    stages = stage_configs(pipeline)
    assert stages["promote"]["registry"]["uri"] == "http://mlflow:5000"
    assert stages["evaluate"]["data"]["path"] == stages["prepare"]["output"]["path"] == "/o/data"
    assert list(stages) == ["prepare", "sweep", "evaluate", "promote"]
    assert all(stage["cluster"]["address"] == "h:1" for stage in stages.values())


def test_mistakes_in_any_stage_are_found_before_the_first_runs(monkeypatch):
    from jobs import pipeline

    monkeypatch.setattr(pipeline, "_job", lambda name: pytest.fail(f"{name} ran"))
    config = load_config(PipelineConfig, str(CONFIGS / "pipeline.yaml"), ["deploy.http.prt=1"])
    with pytest.raises(UserError, match=r"did you mean http\.port"):
        pipeline.run(config)
