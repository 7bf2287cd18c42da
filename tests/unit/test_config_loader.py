"""The loader: precedence, every mistake at once, paths."""

import json
from pathlib import Path

import pytest
import yaml

from ftlib.config.deploy import DeployConfig
from ftlib.config.erase import EraseConfig
from ftlib.config.evaluate import EvaluateConfig
from ftlib.config.loader import absolute_paths, load_config, refuse_relative_paths, validate
from ftlib.config.prepare import PrepareConfig
from ftlib.config.sweep import SweepConfig
from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError

TRAIN = ["data.path=data", "model.source=embedded:smollm2-135m", "output.path=runs"]


def test_defaults_give_way_to_yaml_and_yaml_to_overrides(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(
        yaml.safe_dump(
            {"data": {"path": "d"}, "model": {"source": "m"}, "output": {"path": "o"}, "method": {"rank": 4}}
        )
    )
    assert load_config(TrainConfig, str(file)).method.rank == 4
    config = load_config(TrainConfig, str(file), ["method.rank=8", "optim.learning_rate=1e-3"])
    assert (config.method.rank, config.optim.learning_rate, config.train.global_batch_size) == (8, 1e-3, 16)


@pytest.mark.parametrize("key", ["0123", "4711", "2024-01-31", "1_0", "K-1"])
def test_a_persons_key_is_taken_as_it_is_written(key: str) -> None:
    assert load_config(EraseConfig, None, [f"subject={key}", "search.paths=[/data]"]).subject == key


def test_every_mistake_is_told_at_once_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as caught:
        load_config(
            TrainConfig, None, [*TRAIN, "trian.x=1", "train.max_step=3", "method.rank=many", "optim.learning_rate=-1"]
        )
    message = str(caught.value)
    assert message.startswith("4 mistakes")
    assert "did you mean train.max_steps?" in message
    assert "trian: unknown key; did you mean train?" in message
    assert "method.rank: " in message and '"many"' in message
    assert "optim.learning_rate" in message


def test_unknown_key_in_a_list_item_names_its_place() -> None:
    with pytest.raises(UserError, match=r"pii\.patterns\.0\.regx: unknown key; did you mean pii\.patterns\.0\.regex\?"):
        load_config(PrepareConfig, None, ["input.paths=[a]", "output.path=o", "pii.patterns=[{entity: X, regx: a}]"])


def test_missing_required_keys_are_listed() -> None:
    with pytest.raises(UserError) as caught:
        load_config(TrainConfig, None)
    assert all(f"{key}: required" in str(caught.value) for key in ("data", "model", "output"))


def test_indivisible_batch_names_the_next_that_divides() -> None:
    with pytest.raises(UserError, match="the next that can is 8"):
        load_config(TrainConfig, None, [*TRAIN, "train.global_batch_size=7", "scaling.num_workers=2"])


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [unclosed\n"])
def test_a_file_that_is_no_mapping_is_one_clear_error(tmp_path: Path, content: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_config(TrainConfig, str(file))


def test_missing_config_file_is_named() -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such config file"):
        load_config(TrainConfig, "nowhere.yaml")


def test_paths_are_made_absolute_wherever_they_stand(tmp_path: Path) -> None:
    config = load_config(PrepareConfig, None, ["input.paths=[a.jsonl, /b, 's3://bucket/c']", "output.path=out"])
    absolute = absolute_paths(config, str(tmp_path))
    assert absolute.input.paths == [str(tmp_path / "a.jsonl"), "/b", "s3://bucket/c"]
    assert absolute.output.path == str(tmp_path / "out")


def test_paths_inside_nested_configs_and_unions_are_found(tmp_path: Path) -> None:
    sweep = load_config(
        SweepConfig,
        None,
        [*(f"train.{item}" for item in TRAIN), "output.path=s", "space.method.rank={type: int, low: 2, high: 8}"],
    )
    assert absolute_paths(sweep, str(tmp_path)).train.data.path == str(tmp_path / "data")
    assert absolute_paths(sweep, str(tmp_path)).train.model.source == "embedded:smollm2-135m"
    deploy = load_config(
        DeployConfig, None, ["model.source=embedded:smollm2-135m", "adapters=[{name: a, path: runs/x}]"]
    )
    assert absolute_paths(deploy, str(tmp_path)).adapters[0].path == str(tmp_path / "runs/x")


def test_a_model_source_is_absolute_only_if_it_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for source, expected in {"model": str(tmp_path / "model"), "org/hub-id": "org/hub-id"}.items():
        config = load_config(TrainConfig, None, ["data.path=/d", f"model.source={source}", "output.path=/o"])
        assert absolute_paths(config, str(tmp_path)).model.source == expected


def test_relative_paths_are_refused_with_the_absolute_one() -> None:
    config = load_config(TrainConfig, None, TRAIN)
    with pytest.raises(UserError) as caught:
        refuse_relative_paths(config)
    assert 'data.path="$PWD/data"' in str(caught.value) and 'output.path="$PWD/runs"' in str(caught.value)
    refuse_relative_paths(
        load_config(TrainConfig, None, ["data.path=/d", "model.source=org/id", "output.path=s3://b/o"])
    )


def test_space_accepts_dotted_and_nested_keys_and_refuses_unknown_ones() -> None:
    base = {
        "train": {"data": {"path": "/d"}, "model": {"source": "m"}, "output": {"path": "/r"}},
        "output": {"path": "/s"},
    }
    rank = {"type": "categorical", "choices": [4, 8]}
    dotted = SweepConfig.model_validate({**base, "space": {"method.rank": rank}})
    nested = SweepConfig.model_validate({**base, "space": {"method": {"rank": rank}}})
    assert dotted.space == nested.space
    with pytest.raises(ValueError, match=r"method\.ranks is not a key"):
        SweepConfig.model_validate({**base, "space": {"method.ranks": rank}})
    with pytest.raises(ValueError, match="dry_run, inspect and advise are about one run"):
        planned = {**base["train"], "dry_run": True}
        SweepConfig.model_validate({**base, "train": planned, "space": {"method.rank": rank}})


def test_tasks_may_be_given_by_kind_alone() -> None:
    config = load_config(
        EvaluateConfig, None, ["model.source=m", "data.path=/d", "output.path=/e", "tasks=[answer, perplexity]"]
    )
    assert [task.kind for task in config.tasks] == ["answer", "perplexity"]


def test_parallelism_is_no_part_of_the_result() -> None:
    first, second, third = (
        load_config(PrepareConfig, None, ["input.paths=[/a]", "output.path=/o", *extra])
        for extra in ([], ["execution.num_workers=2", "input.chunk_bytes=100", "output.path=/p"], ["seed=1"])
    )
    assert first.result_keys == second.result_keys != third.result_keys


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("dedup", {"policy": "most_recent"}, "recency_field"),
        ("mix", {"min_genuine": 0.5}, "synthetic_sources"),
        ("dedup", {"threshold": 0.8, "drop_above": 0.7}, "must not be below threshold"),
        ("dedup", {"enabled": False, "against": ["x.jsonl"]}, "against needs dedup.enabled"),
        ("filter", {"max_age_days": 30}, "filter.reference_date"),
    ],
)
def test_options_of_prepare_that_need_others(section, values, message):
    with pytest.raises(UserError, match=message):
        validate(PrepareConfig, {"input": {"paths": ["a"]}, "output": {"path": "b"}, section: values})


def test_paths_of_references_are_no_part_of_the_result():
    """Files count by their fingerprints, wherever they lie."""
    base = {"input": {"paths": ["a"]}, "output": {"path": "b"}}

    def keys(folder):
        more = {
            "dedup": {"against": [f"{folder}/x"]},
            "decontaminate": {"paths": [f"{folder}/y"]},
            "mix": {"replay": {"path": f"{folder}/z"}},
            "filter": {"max_age_days": 1, "date_field": "d", "reference_date": "2024-01-31"},
        }
        return validate(PrepareConfig, {**base, **more}).result_keys

    assert keys("one") == keys("two")
    assert json.dumps(keys("one"))
