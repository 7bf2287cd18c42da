"""The loss inside the output layer equals the loss of all logits, with its gradients, whatever the model around it."""

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ftlib.data.pack import Pack
from ftlib.train import head
from ftlib.train.batches import Forward, collate
from ftlib.train.head import Targets, find_loss_head, plain_loss

VOCABULARY, HIDDEN, ROWS = 97, 16, 41
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "head_dim": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * VOCABULARY * 16)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("summed", [True, False], ids=["sum", "each"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_gradients_equal_those_of_all_logits(trained, summed, smoothing):
    torch.manual_seed(0)
    layer = torch.nn.Linear(HIDDEN, VOCABULARY, bias=False).double().float().requires_grad_(trained)
    hidden = torch.randn(1, ROWS, HIDDEN)
    ids, weights = torch.randint(0, VOCABULARY, (1, ROWS)), torch.rand(1, ROWS)
    targets = Targets(ids, weights if summed else None, smoothing)
    outer = torch.ones(()) if summed else torch.rand(1, ROWS)
    loss_head, results = head.LossHead(layer), []
    for inside in (False, True):
        inputs = hidden.clone().requires_grad_()
        layer.weight.grad = None
        if inside:
            with loss_head.expecting(targets):
                found = layer(inputs)
        else:
            found = plain_loss(layer(inputs), targets)
        (found * outer).sum().backward()
        results.append([found.detach(), inputs.grad] + ([layer.weight.grad] if trained else []))
    for plain, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "inside"),
    [("llama", True), ("qwen3", True), ("mistral", True), ("phi3", True), ("gpt_neox", True), ("olmo2", True),
     ("gemma2", False), ("granite", False), ("cohere", False)],
)  # fmt: skip
def test_every_model_keeps_its_loss(kind, inside):
    torch.manual_seed(1)
    scale = {"logits_scaling": 4.0} if kind == "granite" else {}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SIZES, **scale))
    rng = torch.Generator().manual_seed(2)
    packs = []
    for length in (9, 14):
        ids = torch.randint(1, VOCABULARY, (length,), generator=rng).int().numpy()
        weights = (torch.rand(length, generator=rng) * (torch.arange(length) > 3)).numpy()
        packs.append(Pack(ids, torch.arange(length).int().numpy(), weights))
    batch = collate(packs, 0, torch.device("cpu"))
    plain = Forward(model).loss(batch, smoothing=0.1)
    loss_head = find_loss_head(model)
    assert (loss_head is not None) == inside
    forward = Forward(model, loss_head)
    torch.testing.assert_close(forward.loss(batch, smoothing=0.1), plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(forward.log_likelihoods(batch, 2), Forward(model).log_likelihoods(batch, 2))
    assert model(input_ids=batch.input_ids).logits.shape == (*batch.input_ids.shape, VOCABULARY)
