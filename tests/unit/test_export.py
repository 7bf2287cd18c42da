"""Copies of a run's result in other formats give the result's logits, and say what quantisation costs."""

import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, Qwen2Config, Qwen3Config

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import sha256_file
from ftlib.models.adapt import AdapterSpec, add_adapter, load_adapter
from ftlib.models.export import save_adapter
from ftlib.models.gguf import check_gguf, rounded_weights, write_gguf
from ftlib.models.load import load_model, load_tokenizer
from ftlib.models.merge import merge_adapter
from ftlib.models.vocabulary import add_token_rows
from ftlib.train import export
from ftlib.train.export import check_formats, with_exports
from tests.training_cases import packed_split

TEXT = "Refund of invoice 1234: the card's payment was delayed. zorblax!"
IDS = torch.arange(30, 80)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random Llama with a tokenizer of bytes and two merges: transformers parses GGUF vocabularies slowly."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models") / "bytes"
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "re", "ca"]
    vocabulary = {token: row for row, token in enumerate(["<|im_start|>", "<|im_end|>", *letters])}
    bpe = Tokenizer(models.BPE(vocabulary, [("r", "e"), ("c", "a")]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **special)
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ message['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(7)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, base):
    """A run's folder with a random adapter that brings a token, and its manifest so far."""
    folder = tmp_path_factory.mktemp("export")
    model, own = load_model(base), load_tokenizer(base)
    model = add_adapter(model, AdapterSpec(rank=4, token_ids=tuple(add_token_rows(model, own, ["zorblax"]))))
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    (folder / "adapter").mkdir()
    save_adapter(model, dict(model.named_parameters()), own, folder / "adapter", str(base))
    val = packed_split(folder / "val", load_tokenizer(base), 6, max_seq_len=512)
    manifest = {"kind": "run", "files": {}, "tokens": {"val": str(val)}}
    return folder, manifest | {"base": {"source": str(base), "revision": None}}


def read_gguf(path):
    options = {"dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, **options)


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits


def test_copies_hold_the_trained_model_and_the_manifest_says_what_they_cost(run, base):
    folder, before = run
    manifest = with_exports(folder, before, base, ["merged", "f32", "q8_0", "q4_0"])
    expected = logits(load_adapter(load_model(base), folder / "adapter"))
    found = manifest["exports"]
    merged = AutoModelForCausalLM.from_pretrained(folder / "export" / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(read_gguf(folder / "export/f32/model.gguf")), expected, rtol=1e-5, atol=1e-5)
    assert 0 <= found["merged"]["max_logit_difference"] < 1e-5
    assert found["f32"]["val_loss_change"] == pytest.approx(0, abs=1e-6)
    with rounded_weights(merged, "q4_0"):
        rounded = logits(merged)
    torch.testing.assert_close(logits(read_gguf(folder / "export/q4_0/model.gguf")), rounded, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)
    changes = [abs(found[kind]["val_loss_change"]) for kind in ("f32", "q8_0", "q4_0")]
    assert changes[0] < changes[1] < changes[2] < 1
    assert found["q4_0"]["num_bytes"] < found["q8_0"]["num_bytes"] < 0.5 * found["f32"]["num_bytes"]
    for name, digest in manifest["files"].items():
        assert sha256_file(folder / name) == digest
    assert with_exports(folder, manifest, base, ["merged", "q8_0"]) is manifest


def test_gguf_brings_tokenizer_and_chat_template(run, base):
    folder, manifest = run
    with_exports(folder, manifest, base, ["q8_0"])
    read = AutoTokenizer.from_pretrained(folder / "export" / "q8_0", gguf_file="model.gguf")
    own = load_tokenizer(folder / "adapter")
    assert own.convert_tokens_to_ids("zorblax") in read(TEXT).input_ids
    assert read(TEXT).input_ids == own(TEXT).input_ids
    assert read.chat_template == own.chat_template
    assert (read.eos_token_id, read.pad_token_id) == (own.eos_token_id, own.pad_token_id)


@pytest.mark.parametrize(("config_class", "head_dim"), [(Qwen2Config, 8), (Qwen3Config, 128)])
def test_gguf_of_other_architectures(config_class, head_dim, base, tmp_path):
    config = config_class(
        vocab_size=260, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=head_dim, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # biases and norms are constant at first
        parameter.data += 0.05 * torch.randn_like(parameter)
    write_gguf(model, base, tmp_path / "model.gguf", "f32")
    torch.testing.assert_close(logits(read_gguf(tmp_path / "model.gguf")), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "of type gpt2 cannot be written as GGUF"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "of type yarn cannot"),
    ],
)
def test_gguf_refuses_what_it_would_write_wrong(changes, message, base):
    config = json.loads((base / "config.json").read_text())
    with pytest.raises(UserError, match=message):
        check_gguf(config | changes, base)


def test_gguf_refuses_tokenizers_that_it_has_no_name_for(base, tmp_path):
    file = json.loads((base / "tokenizer.json").read_text())
    config = json.loads((base / "config.json").read_text())
    for changes, message in (
        ({"pre_tokenizer": {"type": "Whitespace"}}, "cuts words"),
        ({"model": file["model"] | {"byte_fallback": True}}, "no byte-level BPE"),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(file | changes))
        with pytest.raises(UserError, match=message):
            check_gguf(config, tmp_path)


def test_merge_that_is_not_the_adapter_is_refused(run, base, monkeypatch):
    monkeypatch.setattr("ftlib.models.merge.MAX_RELATIVE_DIFFERENCE", -1.0)
    with pytest.raises(UserError, match="its logits differ"):
        merge_adapter(base, run[0] / "adapter")


def test_whole_model_needs_no_merge(base):
    with pytest.raises(UserError, match=r"export\.merged"):
        check_formats(["merged"], base, base, whole=True)


def test_command_adds_formats_to_a_finished_run(run, monkeypatch, capsys):
    folder, manifest = run
    (folder / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(sys, "argv", ["export", str(folder), "--to", "merged"])
    export.main()
    assert json.loads((folder / "manifest.json").read_text())["exports"].keys() == {"merged"}
    assert capsys.readouterr().out.strip() == str(folder / "manifest.json")


def test_onnx_gives_the_logits_of_the_result(run, base):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the extra onnx is not installed")
    folder, manifest = run
    found = with_exports(folder, manifest, base, ["onnx"])["exports"]["onnx"]
    assert found["max_logit_difference"] < 1e-4
    assert (folder / "export" / "onnx" / "model.onnx").exists()
