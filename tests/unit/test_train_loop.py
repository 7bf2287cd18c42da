"""The loop against a plain reference: no packing, all logits, one sequence at a time, torch's AdamW and clipping."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ftlib.core.errors import UserError
from ftlib.data.pack import PackedSplit
from ftlib.models.adapt import add_adapter
from ftlib.models.load import load_model
from ftlib.train.batches import Forward, collate
from ftlib.train.checkpoint import CheckpointWriter, list_checkpoints, mark_best, newest_checkpoint, prune_checkpoints
from ftlib.train.loop import train
from ftlib.train.schedule import SampleStream
from ftlib.train.strategy import SingleProcess
from tests.training_cases import loop_settings, packed_split, records, train_alone


@pytest.fixture(scope="module")
def case(tmp_path_factory, tiny_model, tokenizer):
    """Settings of a run without dropout, trained once in this process."""
    root = tmp_path_factory.mktemp("loop")
    data = packed_split(root / "train", tokenizer, 30)
    val = packed_split(root / "val", tokenizer, 8, seed=1)
    settings = loop_settings(root / "run", tiny_model, data, val)
    settings = replace(settings, adapter=replace(settings.adapter, dropout=0.0))
    return settings, train_alone(settings)


def sequences(split: PackedSplit, sample: int):
    """The sequences of a pack, each with its loss weights."""
    pack = split[sample]
    starts = [index for index, place in enumerate(pack.position_ids) if place == 0]
    for start, end in zip(starts, [*starts[1:], len(pack.input_ids)], strict=True):
        yield torch.tensor(pack.input_ids[start:end]).long(), torch.tensor(pack.weights[start:end])


def nll_sum(model, split, samples):
    """Weighted negative log-likelihood and weight, sequence by sequence through the whole output layer."""
    total, weight = torch.zeros(()), 0.0
    for sample in samples:
        for ids, weights in sequences(split, sample):
            log_probs = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
            picked = log_probs.gather(1, ids[1:, None])[:, 0]
            total, weight = total - (picked * weights[1:]).sum(), weight + float(weights[1:].sum())
    return total, weight


def test_losses_equal_a_plain_reference(case):
    settings, outcome = case
    split, val = PackedSplit(settings.train_data), PackedSplit(settings.val_data)
    torch.manual_seed(settings.seed)
    model = add_adapter(load_model(settings.model_folder), settings.adapter).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options = settings.optimizer
    optimizer = torch.optim.AdamW(
        trained, lr=0.0, betas=(options.beta1, options.beta2), eps=options.eps, weight_decay=options.weight_decay
    )
    stream = SampleStream(len(split), settings.batch_size, settings.seed)
    losses, norms = [], []
    for step in range(6):
        total, weight = nll_sum(model, split, stream.batch(step))
        optimizer.zero_grad()
        (total / weight).backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, options.max_grad_norm)))
        optimizer.param_groups[0]["lr"] = settings.schedule.rate(step)
        optimizer.step()
        losses.append(total.item() / weight)
    found = records(settings.run_dir, "train")
    assert [record["loss"] for record in found] == pytest.approx(losses, rel=1e-5)
    assert [record["grad_norm"] for record in found] == pytest.approx(norms, rel=1e-4)
    with torch.no_grad():
        total, weight = nll_sum(model.eval(), val, range(len(val)))
    assert outcome.val_loss == pytest.approx(float(total) / weight, rel=1e-5)


def test_packed_logits_equal_unpacked_ones(case):
    settings, _ = case
    split = PackedSplit(settings.train_data)
    model = load_model(settings.model_folder)
    sample = max(range(len(split)), key=lambda index: len(list(sequences(split, index))))
    pack = split[sample]
    assert len(list(sequences(split, sample))) > 1
    with torch.no_grad():
        packed = model(
            input_ids=torch.tensor(pack.input_ids).long()[None],
            position_ids=torch.tensor(pack.position_ids).long()[None],
            use_cache=False,
        ).logits[0]
        alone = torch.cat([model(input_ids=ids[None]).logits[0] for ids, _ in sequences(split, sample)])
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_micro_batches_of_several_packs_lose_nothing_to_padding(case):
    settings, _ = case
    split = PackedSplit(settings.train_data)
    model, cpu = load_model(settings.model_folder), torch.device("cpu")
    packs = [split[index] for index in (0, 1, len(split) - 1)]
    assert len({len(pack.input_ids) for pack in packs}) > 1
    with torch.no_grad():
        forward = Forward(model)
        together = forward.loss(collate(packs, 0, cpu))
        alone = sum(forward.loss(collate([pack], 0, cpu)) for pack in packs)
    assert float(together) == pytest.approx(float(alone), rel=1e-5)


def test_resumed_run_ends_like_an_undisturbed_one_and_keeps_its_metrics(case):
    settings, outcome = case
    resumed = replace(settings, run_dir=settings.run_dir.with_name("resumed"))
    shutil.copytree(settings.run_dir, resumed.run_dir)
    shutil.rmtree(resumed.run_dir / "checkpoints" / "step-6")
    assert train_alone(resumed).val_loss == pytest.approx(outcome.val_loss, rel=1e-6)
    assert [record["step"] for record in records(resumed.run_dir, "train")] == [1, 2, 3, 4, 5, 6]
    expected = [record["loss"] for record in records(settings.run_dir, "train")]
    assert [record["loss"] for record in records(resumed.run_dir, "train")] == pytest.approx(expected, rel=1e-6)


def test_half_written_checkpoint_is_skipped(case, tmp_path):
    settings, _ = case
    run = tmp_path / "run"
    shutil.copytree(settings.run_dir, run)
    newest = run / "checkpoints" / "step-6" / "state-00000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    (run / "checkpoints" / ".step-9.abc.tmp").mkdir()
    (run / "checkpoints" / "step-9").mkdir()
    assert [checkpoint.step for checkpoint in list_checkpoints(run)] == [3]


def test_damaged_checkpoint_is_skipped_by_its_checksum(case, tmp_path):
    settings, _ = case
    run = tmp_path / "run"
    shutil.copytree(settings.run_dir, run)
    newest = run / "checkpoints" / "step-6" / "state-00000.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1  # the size stays
    newest.write_bytes(content)
    assert [checkpoint.step for checkpoint in list_checkpoints(run)] == [3, 6]
    assert newest_checkpoint(run).step == 3


@pytest.mark.parametrize("background_bytes", [0, 1 << 30], ids=["at once", "behind"])
def test_what_cannot_be_written_is_raised_and_leaves_no_checkpoint(tmp_path, background_bytes):
    (tmp_path / "checkpoints").write_text("no folder")
    writer = CheckpointWriter(tmp_path, 1, writer=True, background_bytes=background_bytes)
    with pytest.raises(OSError):
        writer.save({"step": 1}, iter([("param/a", torch.ones(3))]), num_bytes=12)
        writer.wait()


def test_checkpoint_written_behind_holds_the_values_of_its_step(tmp_path):
    tensor, writer = torch.ones(3), CheckpointWriter(tmp_path, 1, writer=True)
    writer.save({"step": 1, "val_loss": None}, iter([("param/a", tensor)]), num_bytes=12)
    tensor.zero_()
    writer.wait()
    assert dict(newest_checkpoint(tmp_path).tensors("param"))["a"].tolist() == [1, 1, 1]


def test_early_stopping_ends_with_the_best_weights_and_survives_a_resume(case):
    settings, _ = case
    settings = replace(
        settings, run_dir=settings.run_dir.with_name("patient"), schedule=replace(settings.schedule, total_steps=12),
        eval_every_steps=1, checkpoint_every_steps=1, keep_checkpoints=9, early_stopping_patience=2,
        early_stopping_min_delta=10.0,
    )  # fmt: skip
    outcome = train_alone(settings)  # the first validation counts as better than none, the next two do not
    assert (outcome.status, outcome.step, outcome.best) == ("early_stopped", 3, "step-3")
    shutil.rmtree(settings.run_dir / "checkpoints" / "step-3")
    assert train_alone(settings) == outcome


def test_a_node_that_must_go_is_saved_first(case):
    settings, _ = case
    warned = replace(settings, run_dir=settings.run_dir.with_name("warned"), keep_checkpoints=9)
    warned.run_dir.mkdir()
    answers = iter([False, True, False, False, False, False])
    train(warned, SingleProcess(torch.device("cpu")), must_save=lambda: next(answers))
    assert [checkpoint.step for checkpoint in list_checkpoints(warned.run_dir)] == [2, 3, 6]


def test_replay_is_mixed_into_every_batch(case, tokenizer):
    settings, _ = case
    general = packed_split(settings.run_dir.with_name("general"), tokenizer, 10, seed=7)
    mixed = replace(settings, run_dir=settings.run_dir.with_name("mixed"), replay_data=general, replay_share=0.5)
    train_alone(mixed)
    own, other = PackedSplit(settings.train_data), PackedSplit(general)
    tokens = [*own.pack_tokens.tolist(), *other.pack_tokens.tolist()]
    stream = SampleStream(len(own), settings.batch_size, settings.seed, len(other), 0.5)
    for step, record in enumerate(records(mixed.run_dir, "train")):
        batch = stream.batch(step)
        assert sum(sample >= len(own) for sample in batch) == settings.batch_size / 2
        assert record["tokens"] == sum(tokens[sample] for sample in batch)
    newest = newest_checkpoint(mixed.run_dir)
    assert newest.state["cursor"]["replayed"] == 6 * settings.batch_size / 2


def test_micro_batches_of_like_lengths_change_no_loss(case):
    settings, _ = case
    wide = replace(settings, run_dir=settings.run_dir.with_name("wide"), micro_batch_size=2)
    train_alone(wide)
    expected = [record["loss"] for record in records(settings.run_dir, "train")]
    assert [record["loss"] for record in records(wide.run_dir, "train")] == pytest.approx(expected, rel=1e-5)


def test_best_checkpoint_outlives_newer_ones(tmp_path):
    run = tmp_path / "run"
    losses = {1: 2.0, 2: 1.5, 3: 1.7, 4: 1.9, 5: None}
    for step, loss in losses.items():
        folder = run / "checkpoints" / f"step-{step}"
        folder.mkdir(parents=True)
        save_file({"param/a": torch.ones(1)}, folder / "state.safetensors")
        files = {"state.safetensors": {"bytes": (folder / "state.safetensors").stat().st_size, "sha256": ""}}
        (folder / "state.json").write_text(json.dumps({"step": step, "val_loss": loss, "files": files}))
    prune_checkpoints(run, keep=2)
    assert [checkpoint.step for checkpoint in list_checkpoints(run)] == [2, 4, 5]
    assert mark_best(run).step == 2
    assert (run / "BEST").read_text().strip() == "step-2"


def test_checkpoints_of_another_run_are_refused(case):
    settings, _ = case
    with pytest.raises(UserError, match=r"other data, model or settings.*run_id"):
        train_alone(replace(settings, resume_key="another"))


def test_stop_at_validation_keeps_the_result_so_far(case):
    settings, _ = case
    stopped = replace(settings, run_dir=settings.run_dir.with_name("stopped"))
    stopped.run_dir.mkdir()
    seen = []
    outcome = train(
        stopped, SingleProcess(torch.device("cpu")), lambda step, metrics: seen.append((step, metrics)) or True
    )
    assert (outcome.status, outcome.step, outcome.best) == ("stopped", 3, "step-3")
    assert seen == [(3, outcome.metrics)]
    assert load_file(stopped.run_dir / "adapter" / "adapter_model.safetensors")


def test_divergence_is_reported_with_its_step(case):
    settings, _ = case
    hot = replace(
        settings,
        run_dir=settings.run_dir.with_name("hot"),
        schedule=replace(settings.schedule, peak=1e30),
        optimizer=replace(settings.optimizer, max_grad_norm=1e30),
    )
    outcome = train_alone(hot)
    assert outcome.status == "diverged"
    assert 1 <= outcome.step <= 6
    assert outcome.rows and all(row.startswith("row-0-") for row in outcome.rows)


def test_rows_behind_a_loss_that_is_no_number_are_named(case, tokenizer):
    settings, _ = case
    data = settings.run_dir.with_name("poisoned")
    shutil.copytree(settings.train_data, data)
    split, first = PackedSplit(data), SampleStream(len(PackedSplit(data)), 4, settings.seed).batch(0)[1]
    weights = np.load(data / "weights-00000.npy")
    name = split.ids(first)[0]
    place = json.loads((data / "ids-00000.json").read_text()).index(name)
    _, start, length = np.load(data / "sequences.npy")[place]
    weights[start + length - 2] = np.nan
    np.save(data / "weights-00000.npy", weights)
    outcome = train_alone(replace(settings, run_dir=settings.run_dir.with_name("nan"), train_data=data))
    assert (outcome.status, outcome.step) == ("diverged", 1)
    assert set(outcome.rows) <= set(split.ids(first)) and name in outcome.rows[:5]


def test_adapter_loads_with_peft_and_gives_the_loss_that_was_measured(case):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    settings, outcome = case
    folder = settings.run_dir / "adapter"
    model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    val = PackedSplit(settings.val_data)
    with torch.no_grad():
        total, weight = nll_sum(model.eval(), val, range(len(val)))
    assert float(total) / weight == pytest.approx(outcome.val_loss, rel=1e-5)
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_bfloat16_base_is_frozen_in_bfloat16_and_learns(case):
    settings, _ = case
    low = replace(settings, run_dir=settings.run_dir.with_name("bf16"), precision=torch.bfloat16)
    train_alone(low)
    expected = [record["loss"] for record in records(settings.run_dir, "train")]
    assert [record["loss"] for record in records(low.run_dir, "train")] == pytest.approx(expected, rel=5e-3)


def test_float16_tries_overflowing_steps_again_and_resumes_with_its_loss_scale(case, tmp_path):
    settings, reference = case
    settings = replace(settings, precision=torch.float16, run_dir=tmp_path / "calm")
    norms = []

    class Overflowing(SingleProcess):
        """Begins with a scale that no gradient bears."""

        def prepare(self, *args, **options):
            super().prepare(*args, **options)
            self._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)

        def step(self, learning_rate):
            norms.append(super().step(learning_rate))
            return norms[-1]

    strategy = Overflowing(torch.device("cpu"))
    settings.run_dir.mkdir()
    outcome = train(settings, strategy)
    assert outcome.val_loss == pytest.approx(reference.val_loss, rel=0.02)
    rows, expected = records(settings.run_dir, "train"), records(case[0].run_dir, "train")
    assert [row["tokens"] for row in rows] == [row["tokens"] for row in expected]
    assert all(math.isfinite(row["grad_norm"]) for row in rows)
    assert len(norms) > len(rows) and not math.isfinite(norms[0])
    scale = strategy._scaler.get_scale()
    assert 65536 != scale < 2.0**40

    again = replace(settings, run_dir=tmp_path / "resumed")
    shutil.copytree(settings.run_dir, again.run_dir)
    shutil.rmtree(list_checkpoints(again.run_dir)[-1].path)
    resumed = SingleProcess(torch.device("cpu"))
    assert train(again, resumed).val_loss == outcome.val_loss
    assert resumed._scaler.get_scale() == scale


def test_float16_gives_up_on_a_gradient_that_is_infinite_at_any_scale(case, tmp_path):
    class Infinite(SingleProcess):
        def prepare(self, model, *args, **options):
            super().prepare(model, *args, **options)
            next(weight for weight in model.parameters() if weight.requires_grad).register_hook(
                lambda gradient: gradient * math.inf
            )
            self._scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    settings = replace(case[0], precision=torch.float16, run_dir=tmp_path / "run")
    settings.run_dir.mkdir()
    outcome = train(settings, Infinite(torch.device("cpu")))
    assert (outcome.status, outcome.step) == ("diverged", 1)


def test_activation_checkpointing_changes_no_loss(case):
    settings, _ = case
    saving = replace(settings, run_dir=settings.run_dir.with_name("recompute"), activation_checkpointing=True)
    train_alone(saving)
    expected = [record["loss"] for record in records(settings.run_dir, "train")]
    assert [record["loss"] for record in records(saving.run_dir, "train")] == pytest.approx(expected, rel=1e-6)
