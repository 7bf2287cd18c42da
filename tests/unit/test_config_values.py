"""What a word means: text keys take what is written, everything else is YAML; hostile files are one message."""

import json
import string
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from ftlib.config.audit import AuditConfig
from ftlib.config.base import JobConfig
from ftlib.config.deploy import DeployConfig
from ftlib.config.erase import EraseConfig
from ftlib.config.evaluate import EvaluateConfig
from ftlib.config.loader import as_override, load_config
from ftlib.config.pipeline import PipelineConfig
from ftlib.config.prepare import PrepareConfig
from ftlib.config.promote import PromoteConfig
from ftlib.config.sweep import SweepConfig
from ftlib.config.train import TrainConfig
from ftlib.config.values import Place, from_argument, place_at
from ftlib.core.errors import UserError

JOBS: list[type[JobConfig]] = [
    AuditConfig, DeployConfig, EraseConfig, EvaluateConfig, PipelineConfig, PrepareConfig, PromoteConfig, SweepConfig,
    TrainConfig,
]  # fmt: skip
# What YAML 1.1 reads as something else, comments, blanks at the ends, quotes, marks.
SURPRISES = [
    "John Smith #2", "#12", "4711.0", "4711", "0123", "0x1F", "1_000", "1e3", "yes", "no", "on", "off", "Y", "True",
    "2024-01-31", "12:30:45", "a: b", "- a", "[a", "{a", "a]", "'a'", '"a"', "'a", " a ", "\ta", "a\n", "&a", "*a",
    "!a", "%a", "@a", "`a", "|", ">", "?", "~", "NULL", "Null", "<<", "=", "a=b", ".inf", ".nan", "\u2028", "a\x85b",
    "J\u0301ose\u0301", "\udcff", "--", "---", "...", "a\x00b", "\ufeffa",
]  # fmt: skip


def text_keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Key paths of a configuration whose value is text, sections and dictionaries of text included."""
    found = []
    for name in model.model_fields:
        here = (*path, name)
        place = place_at(model, [name])
        if place.text and not place.container:
            found.append(here)
        for kind in place.types:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += text_keys(kind, here)
        if place.child("some_name").text:
            found.append((*here, "some_name"))
    return found


KEYS = [(job, path) for job in JOBS for path in text_keys(job)]


def test_the_keys_of_text_are_found():
    named = {(job.__name__, ".".join(path)) for job, path in KEYS}
    expected = {
        ("EraseConfig", "subject"), ("EraseConfig", "output.path"), ("PrepareConfig", "input.sql"),
        ("PrepareConfig", "pii.models.some_name"), ("PrepareConfig", "input.template.user"),
        ("PrepareConfig", "cluster.address"), ("TrainConfig", "output.run_id"), ("PipelineConfig", "prepare.input.sql"),
        ("PipelineConfig", "deploy.app_name"), ("SweepConfig", "train.model.source"),
    }  # fmt: skip
    assert expected <= named and len(KEYS) > 150
    assert ("PrepareConfig", "seed") not in named and ("PrepareConfig", "input.paths") not in named


def built(job: type[JobConfig], path: tuple[str, ...], value: str) -> Any:
    """What stands at the key after loading an argument, before it is validated."""
    from ftlib.config.loader import _apply_override

    values: dict[str, Any] = {}
    _apply_override(job, values, f"{'.'.join(path)}={value}")
    node: Any = values
    for part in path:
        node = node[part]
    return node


@pytest.mark.parametrize("value", SURPRISES)
def test_every_text_key_of_every_job_takes_what_is_written(value):
    assert [(job, path) for job, path in KEYS if built(job, path, value) != value] == []


@settings(deadline=None)
@given(st.text(), st.sampled_from(KEYS))
@example("null", (EraseConfig, ("subject",)))
def test_any_text_arrives_unchanged(value, key):
    job, path = key
    place = place_at(job, path)
    expected = None if value == "null" and place.nullable and not place.verbatim else value
    assert built(job, path, value) == expected
    # and what is sent to a cluster says the same again
    if (argument := as_override(job, path, value)) is not None:
        assert built(job, path, argument.partition("=")[2]) == value
    else:
        assert value == "null" and place.nullable


@settings(deadline=None)
@given(st.text(alphabet=string.printable, min_size=1))
@example("null")
def test_a_persons_key_is_never_read_as_anything_else(key):
    assert load_config(EraseConfig, None, [f"subject={key}", "search.paths=[/d]"]).subject == key
    listed = json.dumps([key])
    config = load_config(EraseConfig, None, [f"subjects={listed}", f"ids={listed}", "search.paths=[/d]"])
    assert config.subjects == config.ids == [key]


def test_null_unsets_an_optional_text_key_of_things():
    words = ["data.path=/d", "model.source=m", "output.path=/o", "scaling.accelerator_type=null"]
    assert load_config(TrainConfig, None, words).scaling.accelerator_type is None


def test_a_key_of_text_or_a_list_takes_both():
    place = place_at(TrainConfig, ["method", "target_modules"])
    assert from_argument("all-linear", place) == "all-linear"
    assert from_argument("[q_proj, v_proj]", place) == ["q_proj", "v_proj"]
    assert from_argument(".*\\.(q|v)_proj #1", place) == ".*\\.(q|v)_proj #1"
    assert from_argument("[qkv]_proj", place) == "[qkv]_proj"


def test_other_keys_are_yaml():
    words = ["input.paths=[a, 'b c']", "output.path=o", "seed=3", "dedup.enabled=no", "pii.max_residual=null"]
    config = load_config(PrepareConfig, None, [*words, "pii.deny_list={NAME: [yes, 12, Ann]}", "pii.models.no=x: y"])
    assert (config.input.paths, config.seed, config.dedup.enabled) == (["a", "b c"], 3, False)
    assert config.pii.max_residual is None and config.pii.models == {"no": "x: y"}
    assert config.pii.deny_list == {"NAME": ["yes", "12", "Ann"]}


def test_a_file_may_leave_text_unquoted(tmp_path):
    file = tmp_path / "erase.yaml"
    file.write_text(
        "subject: 4711.0\nsubjects: [no, 0123, 2024-01-31, null, 1_000, 'a #2']\nids:\n- yes # who knows\n- 12:30\n"
        "search: &s\n  paths: [1.0]\noutput: {path: 7}\n"
    )
    config = load_config(EraseConfig, str(file))
    assert config.subject == "4711.0" and config.ids == ["yes", "12:30"]
    assert config.subjects == ["no", "0123", "2024-01-31", "null", "1_000", "a #2"]
    assert config.search.paths == ["1.0"] and config.output.path == "7"


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab1: #")


@settings(deadline=None)
@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", min_size=1), inner)))
def test_where_anything_may_stand_values_are_what_yaml_says(value):
    text = yaml.safe_dump([value])
    assert from_argument(text, Place((Any,))) == yaml.safe_load(text)


def test_merge_keys_and_anchors_work(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("x: &p {kind: asha, min_steps: 3}\n".replace("x", "search") + "seed: 1\n")
    with pytest.raises(UserError, match=r"search\.kind: unknown key"):
        load_config(SweepConfig, str(file))
    file.write_text(
        "input: {paths: [a]}\noutput: &o {path: no}\npii: {<<: {profile: fast, language: no}, language: de}\n"
    )
    config = load_config(PrepareConfig, str(file))
    assert (config.output.path, config.pii.profile, config.pii.language) == ("no", "fast", "de")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "100,000 values"),
        ("a: &a [*a]\n", "levels deep"),
        ("a: " + "[" * 5000, "YAML|levels deep"),
        ("{" * 100_000, "YAML|levels deep"),
        ("- a\n- b\n", "a mapping of keys is expected, found list"),
        ("4711\n", "a mapping of keys is expected, found int"),
        ("seed: " + "9" * 5000 + "\n", "seed: "),
        ("seed: 1\nseed: 2\n", "the key seed stands twice"),
        ("seed: !!python/object/apply:os.system ['true']\n", "seed"),
        ("? [a, b]\n: c\n", "a key must be a word"),
        ("seed: 2024-13-45\n", "seed: "),
        ("<<: 3\n", "<< needs a mapping"),
        ("seed: \x07\n", "not valid YAML"),
        ("a: b: c\n", "not valid YAML"),
        ("---\na: 1\n---\nb: 2\n", "not valid YAML"),
        ("no\x1bt\nseed: {\n", "not valid YAML"),
    ],
)
def test_a_hostile_file_is_one_message(tmp_path, content, message):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_config(PrepareConfig, str(file))
    assert len(str(caught.value)) < 2000 and str(caught.value).replace("\n", "").isprintable()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"seed: \xe9\n"])
def test_a_file_that_is_no_utf8_or_no_file_is_one_message(tmp_path, content):
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    for source in (str(file), str(tmp_path), "a\0b", "x" * 5000, "~nobody_of_that_name/x"):
        with pytest.raises(UserError, match=r"cannot be read|no such config file"):
            load_config(PrepareConfig, source)


def test_values_that_name_a_person_are_not_shown():
    for word in ("subjects=John Smith", "ids={John: Smith}", "subject=[John Smith", "Smith"):
        with pytest.raises(UserError) as caught:
            load_config(EraseConfig, None, [word, "ids=[]"])
        assert "Smith" not in str(caught.value)


def test_long_and_hostile_names_stay_on_their_line():
    with pytest.raises(UserError) as caught:
        load_config(PrepareConfig, None, ["input.paths=[a]", "output.path=o", f"se\x1bed\u202e{'x' * 9999}=1"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and len(lines[1]) < 1000 and lines[1].isprintable()
