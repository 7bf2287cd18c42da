"""DPO and KTO in the loop against their formulas, computed sequence by sequence from all logits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ftlib.data.pack import PackedSplit
from ftlib.data.tokenize import TokenizeSettings, tokenize_rows
from ftlib.models.adapt import add_adapter
from ftlib.models.load import load_model
from ftlib.train.objectives import ObjectiveSettings, dpo_losses
from ftlib.train.schedule import SampleStream
from tests.training_cases import loop_settings, packed_split, preferences, records, train_alone

KINDS = {
    "dpo": ObjectiveSettings("dpo", beta=0.3, label_smoothing=0.1),
    "kto": ObjectiveSettings("kto", beta=0.3, desirable_weight=1.2, undesirable_weight=0.7),
}


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory, tiny_model, tokenizer):
    """A run of six steps of preferences."""
    root = tmp_path_factory.mktemp(request.param)
    data = packed_split(root / "train", tokenizer, 14, rows=preferences, objective=request.param)
    val = packed_split(root / "val", tokenizer, 5, seed=1, rows=preferences, objective=request.param)
    settings = loop_settings(root / "run", tiny_model, data, val, objective=KINDS[request.param])
    settings = replace(settings, adapter=replace(settings.adapter, dropout=0.0))
    return settings, train_alone(settings)


def likelihoods(model, split: PackedSplit, sample: int) -> torch.Tensor:
    """Log-likelihood of both sequences of a sample."""
    pack, found = split[sample], []
    for number in (0, 1):
        part = pack.only(number)
        ids, learnt = torch.tensor(part.input_ids).long(), torch.tensor(part.weights[1:] > 0)
        log_probs = model(input_ids=ids[None], use_cache=False).logits[0, :-1].log_softmax(-1)
        found.append(log_probs.gather(1, ids[1:, None])[:, 0][learnt].sum())
    return torch.stack(found)


def expected_loss(model, split, samples, reference, objective):
    policy = torch.stack([likelihoods(model, split, sample) for sample in samples])
    ratios = policy - reference[samples]
    if objective.kind == "dpo":
        margin = objective.beta * (ratios[:, 0] - ratios[:, 1])
        sigmoid, smoothing = torch.sigmoid, objective.label_smoothing
        losses = -(1 - smoothing) * sigmoid(margin).log() - smoothing * sigmoid(-margin).log()
    else:
        divergence = ratios[:, 1].mean().clamp(min=0).detach()
        losses = []
        for ratio, sample in zip(ratios[:, 0], samples, strict=True):
            margin = objective.beta * (ratio - divergence)
            if split.desirable[sample]:
                losses.append(objective.desirable_weight * (1 - torch.sigmoid(margin)))
            else:
                losses.append(objective.undesirable_weight * (1 - torch.sigmoid(-margin)))
        losses = torch.stack(losses)
    weights = torch.tensor(split.pack_weights[samples]).float()
    return (losses * weights).sum() / weights.sum()


def test_losses_equal_the_formulas(case):
    settings, _ = case
    split = PackedSplit(settings.train_data)
    torch.manual_seed(settings.seed)
    model = add_adapter(load_model(settings.model_folder), settings.adapter)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options = settings.optimizer
    optimizer = torch.optim.AdamW(trained, betas=(options.beta1, options.beta2), weight_decay=options.weight_decay)
    with torch.no_grad():
        reference = torch.stack([likelihoods(model, split, sample) for sample in range(len(split))])
    stream = SampleStream(len(split), settings.batch_size, settings.seed)
    for step, record in enumerate(records(settings.run_dir, "train")):
        loss = expected_loss(model, split, stream.batch(step), reference, settings.objective)
        assert record["loss"] == pytest.approx(loss.item(), rel=2e-5)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
        assert record["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
        optimizer.param_groups[0]["lr"] = settings.schedule.rate(step)
        optimizer.step()
        optimizer.zero_grad()


def test_preferences_are_learnt_and_counted(case):
    settings, outcome = case
    train = records(settings.run_dir, "train")
    assert train[0]["reward_margin"] == pytest.approx(0.0, abs=1e-5)  # the model is its own reference
    assert train[-1]["reward_margin"] > 0.01
    assert 0 <= outcome.metrics["val_reward_accuracy"] <= 1
    assert outcome.val_loss == outcome.metrics["val_loss"]


def test_resumed_run_keeps_its_reference(case):
    import shutil

    settings, outcome = case
    resumed = replace(settings, run_dir=settings.run_dir.with_name("resumed"))
    shutil.copytree(settings.run_dir, resumed.run_dir)
    shutil.rmtree(resumed.run_dir / "checkpoints" / "step-6")
    assert train_alone(resumed).val_loss == pytest.approx(outcome.val_loss, rel=1e-5)


def test_two_answers_lose_the_same_tokens_of_their_prompt(tokenizer):
    rows = preferences(3)
    rows[0]["messages"][0]["content"] = " ".join(f"word{number}" for number in range(200))
    result = tokenize_rows(rows, tokenizer, TokenizeSettings("", 64, objective="dpo"))
    chosen, rejected = result.tokens[:2]
    assert result.num_truncated == 1 and max(len(chosen), len(rejected)) == 64
    shared = next(place for place, pair in enumerate(zip(chosen, rejected, strict=False)) if pair[0] != pair[1])
    first = result.weights[0].index(1.0)
    assert shared >= first and chosen[:first] == rejected[:first]


def test_rows_without_what_the_objective_needs_are_counted(tokenizer):
    rows = [*preferences(3), {**preferences(1, seed=5)[0], "rejected": None}]
    result = tokenize_rows(rows, tokenizer, TokenizeSettings("", 128, objective="dpo"))
    assert list(result.unsupervised.ids.values()) == [["row-5-0"]] and len(result.samples) == 3
    result = tokenize_rows(rows, tokenizer, TokenizeSettings("", 128, objective="kto"))
    assert not result.unsupervised.num_rows and [flag for _, flag in result.samples] == [1, 0, 1, 0, 1, 0, 1]
    # Beside an answer stands one that was not given to this prompt.
    answers = {tuple(tokens[len(tokens) - 3 :]) for tokens in result.tokens[:2]}
    assert len(answers) == 2 or not np.array_equal(result.tokens[0], result.tokens[1])


def test_dpo_loss_starts_at_log_two():
    zeros = torch.zeros(3, 2)
    torch.testing.assert_close(dpo_losses(zeros, zeros, 0.1), torch.full((3,), 2.0).log())
