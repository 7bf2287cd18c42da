"""DP-SGD against plain references: one unit's gradient at a time, binomial batches, normal noise, other accountants."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats

from ftlib.config.sweep import SweepConfig
from ftlib.config.train import TrainConfig
from ftlib.core.errors import UserError
from ftlib.data.pack import PackedSplit
from ftlib.models.adapt import AdapterSpec, add_adapter
from ftlib.models.load import load_model
from ftlib.train.budget import PrivacySettings, epsilon, plan_privacy
from ftlib.train.checkpoint import list_checkpoints
from ftlib.train.loop import train
from ftlib.train.private import PrivateDataParallel, PrivateRun
from ftlib.train.secret import KEY_FILE, SecretNumbers, run_key
from ftlib.train.strategy import trained_parameters
from ftlib.train.units import PoissonStream, PrivacyUnits, clip_groups
from tests.training_cases import conversations, loop_settings, private_split, records, train_alone

CPU = torch.device("cpu")


def private_rows(num_rows: int, seed: int = 0) -> list[dict]:
    """Conversations of weight 1; every third row is of subject A or B, the others of one each; one long text."""
    rows = [row | {"weight": None} for row in conversations(num_rows, seed)]
    for number, row in enumerate(rows):
        row["subject"] = f"{'AB'[number % 2]}" if number % 3 == 0 else f"subject-{number}"
    text = " ".join(f"line {number} of a long note" for number in range(24))
    return [*rows, {"id": "long", "messages": None, "text": text, "weight": None, "subject": "A"}]


@pytest.fixture(scope="module")
def data(tmp_path_factory, tokenizer):
    root = tmp_path_factory.mktemp("private")
    train_data = private_split(root / "train", tokenizer, private_rows(15), max_seq_len=64)
    return train_data, private_split(root / "val", tokenizer, private_rows(4, seed=1)[:4], max_seq_len=64)


def privacy(num_units: int, **changes) -> PrivacySettings:
    settings = PrivacySettings(
        epsilon=8.0, delta=1e-4, noise_multiplier=1.0, sample_rate=4 / num_units, num_units=num_units, total_steps=6,
        max_grad_norm=0.1, accountant="rdp", seed=3,
    )  # fmt: skip
    return replace(settings, **changes)


@pytest.fixture
def settings(data, tiny_model, tmp_path):
    """Six steps of about four units, with dropout, noise and two sequences a forward pass."""
    train_data, val_data = data
    case = loop_settings(tmp_path / "run", tiny_model, train_data, val_data, batch_size=4, micro_batch_size=2)
    return replace(case, privacy=privacy(16))


def unit_gradient(model, split, sequences) -> list[torch.Tensor]:
    """The gradient of a unit's loss, through the whole output layer, with nothing else in the batch."""
    model.zero_grad()
    for number in sequences:
        ids, weights = torch.tensor(split[number].input_ids).long(), torch.tensor(split[number].weights)
        log_probs = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float().log_softmax(-1)
        picked = log_probs.gather(1, ids[1:, None])[:, 0] * weights[1:]
        (-picked.sum() / weights[1:].sum()).backward()
    return [parameter.grad.clone() for _, parameter in trained_parameters(model)]


@pytest.mark.parametrize("unit", ["record", "subject"])
def test_a_step_is_the_sum_of_gradients_clipped_one_unit_at_a_time(settings, unit):
    split = PackedSplit(settings.train_data)
    units = PrivacyUnits(split, unit)
    batch = [units.sequences(number) for number in range(len(units))]
    assert max(len(sequences) for sequences in batch) > settings.micro_batch_size  # a unit of several forward passes
    adapter = AdapterSpec(rank=4)
    torch.manual_seed(settings.seed)
    model = add_adapter(load_model(settings.model_folder), adapter).train()
    gradients = [unit_gradient(model, split, sequences) for sequences in batch]
    norms = [float(torch.cat([part.flatten() for part in parts]).norm()) for parts in gradients]
    limit = float(np.median(norms)) * 1.01
    factors = [min(1.0, limit / norm) for norm in norms]
    expected = [
        sum(factor * parts[i] for factor, parts in zip(factors, gradients, strict=True)) / len(units)
        for i in range(len(gradients[0]))
    ]

    chosen = privacy(len(units), unit=unit, sample_rate=1.0, noise_multiplier=0.0, max_grad_norm=limit)
    case = replace(settings, privacy=chosen, adapter=adapter, val_data=None)
    case = replace(case, schedule=replace(case.schedule, total_steps=1))
    strategy = PrivateDataParallel(CPU, chosen)
    case.run_dir.mkdir()
    run = PrivateRun(case, strategy, None)
    seen = []
    original = torch.optim.AdamW.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", lambda self: seen.extend(
            p.grad.clone() for p in strategy._trained) or original(self))  # fmt: skip
        run.run()
    for found, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-7)
    assert records(case.run_dir, "train")[0]["clipped_units"] == sum(factor < 1 for factor in factors) > 0


def test_noise_is_gaussian_of_the_right_scale_and_added_once(settings):
    """Without units in the batch what is left of a step is the noise."""
    chosen = replace(settings.privacy, sample_rate=1e-12, noise_multiplier=2.0)
    strategy = PrivateDataParallel(CPU, chosen)
    torch.manual_seed(0)
    strategy.prepare(
        add_adapter(load_model(settings.model_folder), AdapterSpec(rank=8)), settings.optimizer, torch.float32, 1
    )
    size = len(strategy._sum)
    norm = strategy.update(0.0, SecretNumbers(b"key"), 0)
    scale = chosen.noise_multiplier * chosen.max_grad_norm / (chosen.sample_rate * chosen.num_units)
    noise = SecretNumbers(b"key").normal("noise 0", size)
    assert norm == pytest.approx(scale * np.linalg.norm(noise), rel=1e-9)
    assert norm / scale / size**0.5 == pytest.approx(1.0, abs=5 / (2 * size) ** 0.5)


def test_secret_numbers_are_standard_normal_and_differ_by_label_and_key():
    numbers = SecretNumbers(b"key")
    sample = numbers.normal("a", 100_001)
    assert len(sample) == 100_001
    assert stats.kstest(sample, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(sample[:50_000], sample[50_000:100_000])[0, 1]) < 0.02
    np.testing.assert_array_equal(sample, SecretNumbers(b"key").normal("a", 100_001))
    for other in (numbers.normal("b", 100_001), SecretNumbers(b"other").normal("a", 100_001)):
        assert abs(np.corrcoef(sample, other)[0, 1]) < 0.02


def test_batches_are_poisson_samples():
    """Sizes are binomial, units come equally often, and neither units nor steps depend on each other."""
    units, rate, steps = 200, 0.1, 3000
    stream = PoissonStream(units, rate, SecretNumbers(b"key"), seed=5)
    drawn = np.zeros((steps, units), dtype=bool)
    for step in range(steps):
        drawn[step, stream.batch(step)] = True
    sizes = drawn.sum(1)
    deviation = (units * rate * (1 - rate)) ** 0.5
    assert sizes.mean() == pytest.approx(units * rate, abs=4 * deviation / steps**0.5)
    assert sizes.var() == pytest.approx(deviation**2, rel=4 * (2 / steps) ** 0.5)
    counts = drawn.sum(0)
    chi2 = ((counts - steps * rate) ** 2 / (steps * rate * (1 - rate))).sum()
    assert 1e-4 < stats.chi2.sf(chi2, units) < 1 - 1e-4
    assert (drawn[1:] & drawn[:-1]).mean() == pytest.approx(rate**2, rel=0.05)
    assert stream.batch(17) == PoissonStream(units, rate, SecretNumbers(b"key"), seed=5).batch(17)
    assert stream.step_at(stream.cursor(17)) == 17
    with pytest.raises(ValueError, match="none of this stream"):
        stream.step_at(replace(stream.cursor(17), seed=6))
    assert PoissonStream(7, 1.0, SecretNumbers(b"key"), seed=5).batch(3) == list(range(7))


def test_units_hold_all_pieces_of_a_record_and_all_records_of_a_subject(data):
    split = PackedSplit(data[0])
    rows = private_rows(15)
    by_record, by_subject = PrivacyUnits(split, "record"), PrivacyUnits(split, "subject")
    assert len(by_record) == 16
    assert len(by_subject) == len({row["subject"] for row in rows}) == 12
    sizes = [len(by_record.sequences(unit)) for unit in range(16)]
    assert sorted(sizes)[:15] == [1] * 15
    assert max(sizes) == len(split) - 15 > 2
    for units in (by_record, by_subject):
        assert sorted(number for unit in range(len(units)) for number in units.sequences(unit)) == list(
            range(len(split))
        )
    limited = PrivacyUnits(split, "subject", max_records=2)
    kept = [set(limited.sequences(unit)) for unit in range(12)]
    hashes = np.load(data[0] / "units.npy")[:, 0]
    assert max(len({hashes[number] for number in sequences}) for sequences in kept) == 2
    assert all(sequences <= set(by_subject.sequences(unit)) for unit, sequences in enumerate(kept))


def test_groups_fill_a_pass_and_leave_large_units_alone():
    assert clip_groups([1, 1, 1, 5, 2, 2, 1], limit=4) == [[0, 1, 2], [3], [4, 5], [6]]
    assert clip_groups([], limit=4) == []


def test_private_run_learns_reports_and_repeats_itself(settings):
    outcome = train_alone(settings)
    run = records(settings.run_dir, "train")
    spent = [record["epsilon"] for record in run]
    assert spent == sorted(spent)
    assert (
        spent[-1]
        == settings.privacy.report(6)["epsilon"]
        == records(settings.run_dir, "val")[-1]["epsilon"]
        > spent[0]
        > 0
    )
    assert outcome.val_loss == records(settings.run_dir, "val")[-1]["val_loss"]
    assert outcome.best == "step-6"  # the last, whatever the validation loss
    assert len({record["units"] for record in run}) > 1

    resumed = replace(settings, run_dir=settings.run_dir.with_name("resumed"))
    shutil.copytree(settings.run_dir, resumed.run_dir)
    shutil.rmtree(resumed.run_dir / "checkpoints" / "step-6")
    train_alone(resumed)
    for key in ("loss", "grad_norm", "units", "epsilon"):
        assert [r[key] for r in records(resumed.run_dir, "train")] == [r[key] for r in run]
    name = "adapter/adapter_model.safetensors"
    for key, tensor in load_file(settings.run_dir / name).items():
        assert torch.equal(load_file(resumed.run_dir / name)[key], tensor)


def test_last_checkpoint_is_the_result_even_when_an_earlier_one_validates_better(settings):
    case = replace(settings, schedule=replace(settings.schedule, peak=3.0, kind="constant"))
    outcome = train_alone(case)
    first, last = (record["val_loss"] for record in records(case.run_dir, "val"))
    assert outcome.best == "step-6"
    assert first != last == outcome.val_loss
    assert [checkpoint.state["val_loss"] for checkpoint in list_checkpoints(case.run_dir)] == [None, None]


def test_empty_batches_are_steps_of_noise(settings):
    case = replace(settings, privacy=replace(settings.privacy, sample_rate=1e-12), val_data=None)
    train_alone(case)
    run = records(case.run_dir, "train")
    assert [record["units"] for record in run] == [0] * 6
    assert all(record["grad_norm"] > 0 and record["loss"] == 0 for record in run)


def test_key_is_private_kept_for_a_resume_and_deleted_at_the_end(settings):
    case = replace(settings, privacy=replace(settings.privacy, seed=None, sample_rate=1e-12), val_data=None)
    case.run_dir.mkdir()
    key = run_key(case.run_dir, None, "case")
    assert (case.run_dir / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert run_key(case.run_dir, None, "case") == key != run_key(case.run_dir, None, "other data")
    train_alone(case)
    assert not (case.run_dir / KEY_FILE).exists()
    again = replace(case, run_dir=case.run_dir.with_name("again"))
    train_alone(again)
    norms = [[record["grad_norm"] for record in records(one.run_dir, "train")] for one in (case, again)]
    assert norms[0] != norms[1]


def test_planned_noise_spends_the_budget_and_no_more():
    plan = plan_privacy(2.0, None, num_units=5000, batch_size=100, steps=200)
    assert plan.delta == 1 / 50_000
    assert plan.sample_rate == 0.02
    assert 0.98 * 2.0 <= plan.spent(200) <= 2.0
    assert 0 == plan.spent(0) < plan.spent(1) <= plan.spent(100) < plan.spent(200)
    # Between the points at which it is counted, the log says what will be spent at the next.
    assert plan.spent(101) == plan.spent(104) == plan.report(104)["epsilon"] > plan.report(101)["epsilon"]


@pytest.mark.parametrize(("rate", "sigma", "steps"), [(0.02, 0.8, 500), (0.1, 2.0, 300), (1.0, 10.0, 30)])
def test_epsilon_agrees_with_an_independent_accountant(rate, sigma, steps):
    accounting = pytest.importorskip("dp_accounting", reason="dp-accounting is a dependency of the benchmarks only")
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    accountant.compose(accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(sigma)), steps)
    expected = accountant.get_epsilon(1e-5)
    assert epsilon(sigma, rate, steps, 1e-5, error=0.005 * expected) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": 0.01}, r"privacy\.delta 0\.01 is not below 1 / 1000"),
        ({"batch_size": 2000}, r"train\.global_batch_size 2000 is above the 1000 privacy units"),
        ({"target": 1e-7}, r"privacy\.epsilon 1e-07 .* cannot be kept over 100 steps"),
    ],
)
def test_plans_that_promise_nothing_are_refused(changes, message):
    arguments = {"target": 1.0, "delta": 1e-5, "num_units": 1000, "batch_size": 10, "steps": 100, "accountant": "rdp"}
    arguments |= changes
    with pytest.raises(UserError, match=message):
        plan_privacy(arguments.pop("target"), arguments.pop("delta"), **arguments)


BASE = {
    "data": {"path": "d", "packing": False},
    "model": {"source": "m"},
    "output": {"path": "o"},
    "parallel": {"strategy": "ddp"},
    "privacy": {"epsilon": 8},
}


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"method": {"kind": "full"}}, r"method\.kind full"),
        ({"method": {"kind": "qlora"}}, r"method\.kind qlora"),
        ({"parallel": {"strategy": "deepspeed"}}, r"parallel\.strategy deepspeed"),
        ({"train": {"precision": "float16"}}, r"train\.precision float16"),
        ({"data": {"path": "d"}}, r"data\.packing true \(a sequence would mix units\)"),
        ({"train": {"activation_checkpointing": True}}, r"train\.activation_checkpointing true"),
        ({"privacy": {"epsilon": 8, "max_records_per_subject": 3}}, "needs unit: subject"),
        ({"privacy": {"epsilon": 0}}, "greater than 0"),
    ],
)
def test_what_breaks_the_accounting_is_refused_with_the_reason(section, reason):
    TrainConfig.model_validate(BASE)
    with pytest.raises(ValueError, match=reason):
        TrainConfig.model_validate(BASE | section)


def test_sweeps_are_refused():
    with pytest.raises(ValueError, match="every trial would spend a budget of its own"):
        SweepConfig.model_validate(
            {"train": BASE, "space": {"method.rank": {"type": "int", "low": 1, "high": 2}}, "output": {"path": "s"}}
        )


@pytest.mark.parametrize(
    ("change", "unit", "message"),
    [
        ({"weight": 2.0}, "record", r"rows of weight 1"),
        ({"subject": None}, "subject", r"1 of 11 training rows have no subject"),
    ],
)
def test_data_that_breaks_the_accounting_is_refused(tmp_path, tokenizer, change, unit, message):
    rows = private_rows(10)
    rows[4] |= change
    split = PackedSplit(private_split(tmp_path / "split", tokenizer, rows))
    with pytest.raises(UserError, match=message):
        PrivacyUnits(split, unit)


def test_early_stopping_is_refused(settings):
    settings.run_dir.mkdir()
    with pytest.raises(UserError, match="cannot be stopped by its validation loss"):
        train(settings, PrivateDataParallel(CPU, settings.privacy), lambda step, metrics: False)


@pytest.mark.parametrize(
    ("variant", "message"), [({"use_dora": True}, "plain LoRA"), ({"target_modules": ["embed_tokens"]}, "plain LoRA")]
)
def test_adapters_without_gradients_per_sequence_are_refused(tiny_model, settings, variant, message):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(load_model(tiny_model), LoraConfig(r=2, **{"target_modules": "all-linear"} | variant))
    with pytest.raises(UserError, match=message):
        PrivateDataParallel(CPU, settings.privacy).prepare(model, settings.optimizer, torch.float32, 1)
