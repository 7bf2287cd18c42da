"""Ways to adapt a model: what is exported is what was trained, on the unchanged base, and resume rebuilds it."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from ftlib.config.train import ModelConfig, TrainConfig
from ftlib.core.errors import UserError
from ftlib.data.pack import PackedSplit
from ftlib.inference.runner import ModelRunner
from ftlib.inference.slots import Segment
from ftlib.inference.stepper import Stepper
from ftlib.models.adapt import AdapterSpec, add_adapter, check_adapter, load_adapter
from ftlib.models.export import save_adapter
from ftlib.models.load import load_model, load_tokenizer
from ftlib.models.vocabulary import add_token_rows, save_grown_tokenizer
from ftlib.train.continued import adopt_adapter
from ftlib.train.loop import Run
from ftlib.train.noise import token_lengths
from ftlib.train.strategy import SingleProcess, make_adamw, set_rate
from tests.training_cases import loop_settings, packed_split, records

NEW_TOKENS = ("invoice refund", "passwordless")

METHODS = {
    "dora": {"use_dora": True},
    "orthogonal-patterns": {"init": "orthogonal", "rank_pattern": {"q_proj": 8, "layers.1.*down_proj": 2}},
    "pissa-rslora-dora": {"init": "pissa", "use_rslora": True, "use_dora": True, "alpha": 6.0},
    "pissa-fast-patterns": {"init": "pissa_niter_4", "rank_pattern": {"v_proj": 2}, "use_rslora": True},
    "olora": {"init": "olora", "alpha": 5.0, "alpha_pattern": {"o_proj": 3.0}},
    "eva": {"init": "eva"},
    "new-tokens": {},
}


@pytest.fixture(scope="module")
def case(tmp_path_factory, tiny_model, tokenizer):
    """Settings of three steps without validation, checkpoints at 2 and 3."""
    root = tmp_path_factory.mktemp("methods")
    grown = save_grown_tokenizer(tiny_model, NEW_TOKENS, root / "tokenizer")
    packed_split(root / "grown", load_tokenizer(grown), 20)
    data = packed_split(root / "train", tokenizer, 20)
    settings = loop_settings(root / "run", tiny_model, data, None)
    schedule = replace(settings.schedule, total_steps=3)
    settings = replace(settings, schedule=schedule, eval_every_steps=None, checkpoint_every_steps=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small products: threads cost more than they give, most of all on a busy machine
    yield replace(settings, adapter=AdapterSpec(rank=4)), root
    torch.set_num_threads(threads)


def settings_of(case, name, **spec):
    settings, root = case
    changes = {}
    if "new-tokens" in name:
        changes = {"new_tokens": NEW_TOKENS, "tokenizer_folder": root / "tokenizer", "train_data": root / "grown"}
    run_dir = root / name
    run_dir.mkdir(exist_ok=True)
    return replace(settings, run_dir=run_dir, adapter=replace(settings.adapter, **spec), **changes)


def trained(settings):
    """The model as the loop left it, in evaluation mode."""
    run = Run(settings, SingleProcess(torch.device("cpu")), None)
    assert run.run().status == "finished"
    return run.model.eval()


@torch.no_grad()
def logits(model, settings):
    pack = PackedSplit(settings.train_data)[0]
    count = list(pack.position_ids[1:]).index(0) + 1 if 0 in pack.position_ids[1:] else len(pack.input_ids)
    return model(input_ids=torch.tensor(pack.input_ids[:count]).long()[None], use_cache=False).logits


def losses(settings):
    return [record["loss"] for record in records(settings.run_dir, "train")]


@pytest.mark.parametrize("name", METHODS)
def test_exported_adapter_is_the_trained_model_and_resume_rebuilds_it(case, name):
    from peft import AutoPeftModelForCausalLM

    settings = settings_of(case, name, **METHODS[name])
    expected = logits(trained(settings), settings)
    exported = AutoPeftModelForCausalLM.from_pretrained(settings.run_dir / "adapter", dtype=torch.float32)
    torch.testing.assert_close(logits(exported.eval(), settings), expected, rtol=1e-5, atol=1e-5)
    own = load_adapter(load_model(settings.model_folder), settings.run_dir / "adapter").eval()
    torch.testing.assert_close(logits(own, settings), expected, rtol=1e-5, atol=1e-5)

    undisturbed = losses(settings)
    shutil.rmtree(settings.run_dir / "checkpoints" / "step-3")
    torch.testing.assert_close(logits(trained(settings), settings), expected, rtol=1e-5, atol=1e-6)
    assert losses(settings) == pytest.approx(undisturbed, rel=1e-6)


def test_full_training_grows_all_embeddings(case):
    settings = replace(settings_of(case, "full-new-tokens"), kind="full")
    model = trained(settings)
    exported = load_model(settings.run_dir / "model").eval()
    tokenizer = load_tokenizer(settings.run_dir / "model")
    assert exported.get_input_embeddings().num_embeddings == len(tokenizer) == exported.config.vocab_size
    assert exported.get_output_embeddings().weight is exported.get_input_embeddings().weight
    assert len(tokenizer("invoice refund").input_ids) == 1
    original = load_tokenizer(settings.model_folder)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (original.pad_token_id, original.eos_token_id)
    torch.testing.assert_close(logits(exported, settings), logits(model, settings), rtol=1e-5, atol=1e-5)


def test_new_rows_start_as_the_mean_of_their_pieces_and_alone_train(case):
    settings = settings_of(case, "new-tokens-rows")
    tokenizer = load_tokenizer(settings.model_folder)
    pieces = tokenizer(NEW_TOKENS[0]).input_ids
    model = load_model(settings.model_folder)
    before = model.get_input_embeddings().weight.clone()
    ids = add_token_rows(model, tokenizer, NEW_TOKENS)
    assert ids == [49152, 49153]
    torch.testing.assert_close(model.get_input_embeddings().weight[ids[0]], before[pieces].mean(0))
    adapted = add_adapter(model, AdapterSpec(rank=2, token_ids=tuple(ids)))
    rows = {name: tuple(part.shape) for name, part in adapted.named_parameters() if part.requires_grad}
    assert [shape for name, shape in rows.items() if "lora_" not in name] == [(2, 32)]
    torch.testing.assert_close(adapted.get_input_embeddings().weight[:49152], before)


def test_going_on_from_an_adapter_starts_where_it_ended(case):
    settings, root = case
    first = settings_of(case, "first", use_dora=True)
    model = trained(first)
    on = replace(settings_of(case, "second"), adapter_folder=first.run_dir / "adapter", resume_key="second")
    on = replace(on, schedule=replace(on.schedule, peak=1e-12))
    torch.testing.assert_close(logits(trained(on), on), logits(model, first), rtol=1e-5, atol=1e-5)
    learnt = replace(on, run_dir=root / "third", schedule=settings.schedule)
    learnt.run_dir.mkdir()
    trained(learnt)
    before, after = (load_file(run.run_dir / "adapter" / "adapter_model.safetensors") for run in (on, learnt))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[key], after[key]) for key in before)


def test_several_adapters_share_a_base(case):
    settings, root = case
    folders = [root / name / "adapter" for name in ("one", "two")]
    alone = []
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        adapted = add_adapter(load_model(settings.model_folder), AdapterSpec(rank=2, init="gaussian"))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_()
        adapted.save_pretrained(folder)
        alone.append(logits(adapted.eval(), settings))
    model = load_adapter(load_model(settings.model_folder), folders[0], name="one")
    model = load_adapter(model, folders[1], name="two").eval()
    for name, expected in zip(("one", "two", "one"), (*alone, alone[0]), strict=True):
        model.set_adapter(name)
        torch.testing.assert_close(logits(model, settings), expected)


def test_noise_is_keyed_by_the_seed_scaled_by_length_and_absent_in_validation(case):
    settings = settings_of(case, "noisy")
    plain, noisy = settings_of(case, "plain"), replace(settings, neftune_alpha=5.0)
    run = Run(replace(noisy, val_data=noisy.train_data), SingleProcess(torch.device("cpu")), None)
    run.run()
    trained(plain)
    assert losses(noisy)[0] != pytest.approx(losses(plain)[0], rel=1e-7)
    again = replace(noisy, run_dir=settings.run_dir.with_name("noisy-again"))
    again.run_dir.mkdir()
    trained(again)
    assert losses(again) == losses(noisy)
    assert run.validate() == run.validate()
    positions = torch.tensor([[0, 1, 2, 0, 0, 1], [0, 1, 0, 1, 2, 3]])
    assert token_lengths(positions).tolist() == [[3, 3, 3, 1, 2, 2], [2, 2, 4, 4, 4, 4]]


def test_lora_plus_scales_the_rate_of_b_alone(case):
    settings, _ = case
    model = add_adapter(load_model(settings.model_folder), AdapterSpec(rank=2))
    optimizer = make_adamw(model, replace(settings.optimizer, lora_plus_ratio=16.0))
    set_rate(optimizer, 0.01)
    rates = {id(part): group["lr"] for group in optimizer.param_groups for part in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(0.16 if ".lora_B." in name else 0.01)


def test_fused_experts_are_adapted_and_load_again(tokenizer, tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    torch.manual_seed(0)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    spec = AdapterSpec(rank=2, target_parameters=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"))
    model = add_adapter(load_model(tmp_path / "moe"), spec)
    trained_names = [name for name, part in model.named_parameters() if part.requires_grad]
    assert sum("experts" in name for name in trained_names) == 2 * 2 * 2
    ids = torch.arange(12)[None]
    optimizer = torch.optim.SGD([part for part in model.parameters() if part.requires_grad], lr=1.0)
    for _ in range(2):  # B is zero before the first step, so A has no gradient
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    save_adapter(model, dict(model.named_parameters()), tokenizer, tmp_path, str(tmp_path / "moe"))
    check_adapter(tmp_path, tmp_path / "moe")
    base = load_model(tmp_path / "moe")
    with torch.no_grad():
        expected, plain = model.eval()(ids).logits, base(ids).logits
        assert not torch.allclose(plain, expected, atol=1e-3)
        torch.testing.assert_close(load_adapter(base, tmp_path).eval()(ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"rank": 4, "rank_pattern": {"no_such": 2}},
            "method.rank_pattern 'no_such' fits the name of no adapted module",
        ),
        ({"rank": 4, "rank_pattern": {"q_proj": 40}}, r"method.rank 40 .* at most 32"),
        ({"rank": 4, "target_parameters": ("mlp.experts.down_proj",)}, "no parameter whose name ends in"),
    ],
)
def test_what_fits_no_module_is_refused(case, spec, message):
    with pytest.raises(UserError, match=message):
        add_adapter(load_model(case[0].model_folder), AdapterSpec(**spec))


def test_token_that_the_model_has_is_refused(case, tmp_path):
    with pytest.raises(UserError, match=r"method\.new_tokens: 'the' is a single token"):
        save_grown_tokenizer(case[0].model_folder, ["the"], tmp_path / "grown")


def random_adapter(case, folder, tokens=(), seed=0):
    """An adapter whose weights are all random, saved to a folder with its tokenizer."""
    model_folder = case[0].model_folder
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    ids = add_token_rows(model, tokenizer, tokens)
    model = add_adapter(model, AdapterSpec(rank=2, token_ids=tuple(ids)))
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.5)
    folder.mkdir(parents=True)
    save_adapter(model, dict(model.named_parameters()), tokenizer, folder, str(model_folder))
    return model.eval()


@torch.no_grad()
def test_runner_serves_adapters_with_and_without_new_tokens(case, tmp_path):
    models = {
        "grown": random_adapter(case, tmp_path / "grown", NEW_TOKENS, 1),
        "longer": random_adapter(case, tmp_path / "longer", ("warehouse order", *NEW_TOKENS), 2),
        "plain": random_adapter(case, tmp_path / "plain", (), 3),
        None: load_model(case[0].model_folder),
    }
    runner = ModelRunner.load(case[0].model_folder, "float32")
    ids = torch.tensor([[5, 6, 7, 8]])

    def check(*names):
        for name in names:
            runner.use(name)
            expected, found = models[name](ids).logits, runner.model(ids).logits
            torch.testing.assert_close(found[..., : expected.shape[-1]], expected, rtol=1e-5, atol=1e-5)
            assert (found[..., expected.shape[-1] :] == -torch.inf).all()

    for name in ("grown", "plain", "longer"):
        runner.load_adapter(name, tmp_path / name)
    check("longer", "grown", None, "plain", "grown")
    assert runner.tokenizer_of("grown").decode([49152]) == NEW_TOKENS[0]
    assert runner.tokenizer_of("longer").decode([49152]) == "warehouse order"
    assert runner.tokenizer_of("plain") is runner.tokenizer
    runner.unload_adapter("longer")
    check("grown", "plain", None)
    for name in ("grown", "plain"):
        runner.unload_adapter(name)
    check(None)


@torch.no_grad()
def test_engine_mixes_adapters_with_and_without_new_tokens_in_one_batch(case, tmp_path):
    """Each reads and writes its own rows, and nobody another's."""
    names = {"grown": (NEW_TOKENS, 1), "plain": ((), 3), "longer": (("warehouse order", *NEW_TOKENS), 2)}
    models = {name: random_adapter(case, tmp_path / name, *spec) for name, spec in names.items()}
    models[None] = load_model(case[0].model_folder)
    stepper = Stepper.load(case[0].model_folder, "float32", num_slots=4, capacity=64, max_adapters=1)
    for name in names:
        stepper.add(stepper.read(name, tmp_path / name, None))
    prompts = {None: [5, 6, 7], "grown": [5, 49152, 8], "plain": [5, 6, 9], "longer": [49153, 6, 7]}

    def check(*wanted):
        order = sorted(wanted, key=stepper.bank.index)
        segments = [Segment(slot, 0, 3, stepper.bank.index(name)) for slot, name in enumerate(order)]
        found, _ = stepper.step(segments, [token for name in order for token in prompts[name]], range(len(order)))
        for row, name in zip(found, order, strict=True):
            expected = models[name](torch.tensor([prompts[name]])).logits[0, -1]
            torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-4, atol=1e-4)
            assert (row[len(expected) :] == -torch.inf).all()

    check(None, "grown", "plain", "longer")
    assert stepper.tokenizer_of("longer").decode([49152]) == "warehouse order"
    assert stepper.tokenizer_of("plain") is stepper.tokenizer
    stepper.remove("longer")
    check("grown", "plain", None)
    stepper.remove("grown")
    check(None, "plain")


def train_config(case, **method):
    return TrainConfig.model_validate(
        {
            "data": {"path": "d"},
            "output": {"path": "o"},
            "model": {"source": str(case[0].model_folder)},
            "method": method,
        }
    )


def test_configuration_takes_over_what_the_adapter_decides(case, tmp_path):
    random_adapter(case, tmp_path / "adapter", NEW_TOKENS)
    config = adopt_adapter(train_config(case, adapter=str(tmp_path), dropout=0.1))
    method = config.method
    assert (method.rank, method.alpha, method.new_tokens) == (2, 4, list(NEW_TOKENS))
    assert (method.dropout, method.adapter) == (0.1, str(tmp_path / "adapter"))
    assert adopt_adapter(config) == config
    adopt_adapter(train_config(case, adapter=str(tmp_path), rank=2, target_modules="all-linear"))
    with pytest.raises(UserError, match=r"method\.rank 8 is not 2"):
        adopt_adapter(train_config(case, adapter=str(tmp_path), rank=8))


def test_adapter_of_another_tokenizer_template_or_base_is_refused(case, smollm2, tmp_path):
    random_adapter(case, tmp_path / "adapter")
    config = train_config(case, adapter=str(tmp_path / "adapter"))
    with pytest.raises(UserError, match="another base"):
        adopt_adapter(config.model_copy(update={"model": ModelConfig(source=str(smollm2))}))
    (tmp_path / "manifest.json").write_text(json.dumps({"base": {"source": "other", "fingerprint": "0"}}))
    with pytest.raises(UserError, match="trained on other, whose content"):
        adopt_adapter(config)
    (tmp_path / "manifest.json").unlink()
    template = tmp_path / "adapter" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(UserError, match="chat template is another"):
        adopt_adapter(config)
    vocabulary = tmp_path / "adapter" / "tokenizer.json"
    changed = json.loads(vocabulary.read_text())
    words = changed["model"]["vocab"]
    words["the"], words["and"] = words["and"], words["the"]
    vocabulary.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="tokenizer is another"):
        adopt_adapter(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "full", "use_dora": True}, r"method\.use_dora is about adapters"),
        ({"kind": "full", "adapter": "a"}, r"method\.adapter is about adapters"),
        ({"bits": 8}, r"method\.bits 8 quantises the base of method\.kind qlora"),
        ({"kind": "qlora", "init": "pissa_niter_8"}, r"method\.init pissa_niter_8 changes the base"),
        ({"adapter": "a", "init": "eva"}, r"method\.init eva: first weights come from"),
        ({"init": "orthogonal", "rank": 5}, r"orthogonal needs an even method\.rank"),
        ({"init": "pissa_niter_0"}, r"method\.init"),
        ({"new_tokens": ["a", "a"]}, r"method\.new_tokens must be words"),
        ({"target_parameters": ["w"], "dropout": 0.1}, r"method\.dropout 0\.1 is not possible"),
        ({"target_parameters": ["w"], "init": "eva"}, r"method\.init eva is not possible"),
    ],
)
def test_settings_that_exclude_each_other(case, changes, message):
    with pytest.raises(ValidationError, match=message):
        train_config(case, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"init": "eva"}, {"init": "olora"}, {"use_dora": True}, {"new_tokens": ["a"]}, {"target_parameters": ["w"]}],
)
def test_sharded_weights_exclude_what_needs_them_whole(case, changes):
    values = train_config(case, **changes).model_dump() | {"parallel": {"zero_stage": 3}}
    with pytest.raises(ValidationError, match=r"zero_stage 1 or 2"):
        TrainConfig.model_validate(values)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_base_without_a_device(case, bits):
    with pytest.raises(UserError, match=r"method\.kind qlora needs a CUDA device"):
        load_model(case[0].model_folder, bits=bits)
