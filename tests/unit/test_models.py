"""Model sources that are refused, and adapters that do not fit."""

import json
import shutil

import pytest

from ftlib.core.errors import UserError
from ftlib.models.adapt import AdapterSpec, add_adapter, check_adapter, find_adapter, largest_rank
from ftlib.models.fingerprint import model_fingerprint
from ftlib.models.load import load_model, pick_dtype
from ftlib.models.source import resolve_source


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A copy of the tiny model that a test may spoil."""
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_whole_folder_is_taken(folder):
    assert resolve_source(str(folder)) == folder


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        resolve_source(str(tmp_path / "absent"))


def test_unknown_embedded_model_names_the_known_one():
    with pytest.raises(UserError, match="smollm2-135m"):
        resolve_source("embedded:nothing")


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        resolve_source(str(folder))


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pickled files: pytorch_model\.bin"):
        resolve_source(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_folder_is_refused(folder, name):
    edit_json(folder / name, auto_map={"AutoModel": "modeling.Evil"})
    with pytest.raises(UserError, match="auto_map"):
        resolve_source(str(folder))


def test_adapter_as_base_is_explained(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="this is an adapter"):
        resolve_source(str(tmp_path))


def test_hub_id_without_a_hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="the hub did not give it"):
        resolve_source("nobody/nothing-at-all")


def test_rank_above_a_layer(tiny_model):
    assert largest_rank(tiny_model) == 16
    with pytest.raises(UserError, match=r"method\.rank 17 .* at most 16"):
        add_adapter(load_model(tiny_model), AdapterSpec(rank=17))


def test_unknown_target_module(tiny_model):
    with pytest.raises(UserError, match="no_such_module"):
        add_adapter(load_model(tiny_model), AdapterSpec(target_modules=("no_such_module",)))


def test_adapter_of_another_base(tiny_model, smollm2, tmp_path):
    adapter = tmp_path / "run" / "adapter"
    add_adapter(load_model(tiny_model), AdapterSpec(rank=2)).save_pretrained(adapter)
    check_adapter(adapter, tiny_model)
    with pytest.raises(UserError, match="another base"):
        check_adapter(adapter, smollm2)
    assert find_adapter(str(tmp_path / "run")) == adapter
    (tmp_path / "best.json").write_text(json.dumps({"run_path": str(tmp_path / "run")}))
    assert find_adapter(str(tmp_path)) == adapter
    with pytest.raises(UserError, match="neither an adapter nor"):
        find_adapter(str(tiny_model))


def test_fingerprint_follows_the_weights(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))
    before = model_fingerprint(folder)
    assert model_fingerprint(folder) == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert model_fingerprint(folder) != before


def test_precision_by_name():
    import torch

    assert pick_dtype("float32", "cpu") is torch.float32
    assert pick_dtype("auto", "cpu") in (torch.float32, torch.bfloat16)
