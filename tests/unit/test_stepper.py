"""Steps of a model against transformers' own `generate`: architectures, precisions, new tokens, sizes of the plan."""

import random

import pytest
import torch
import transformers

from ftlib.core.errors import UserError
from ftlib.inference import lora_bank
from ftlib.inference.linears import PackedLinear
from ftlib.inference.lora_bank import AdapterWeights
from ftlib.inference.slots import Plan, Segment
from ftlib.inference.stepper import Stepper
from tests.inference_cases import generate_alone, save_varied_model, varied_model

SIZES = {
    "vocab_size": 300, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.4, "tie_word_embeddings": False, "max_position_embeddings": 256,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip


def _build(name, **options):
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **options})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return getattr(transformers, f"{name}ForCausalLM")(config).eval()


def _prompt(seed, length):
    generator = random.Random(seed)
    return [generator.randrange(3, 300) for _ in range(length)]


def _answers(stepper, prompts, limit, chunk=7):
    """Greedy answers of all prompts at once, in chunks."""
    tokens, done = [list(prompt) for prompt in prompts], [0] * len(prompts)
    while any(len(row) < len(prompt) + limit for row, prompt in zip(tokens, prompts, strict=True)):
        segments = [
            Segment(slot, done[slot], min(chunk, len(row) - done[slot]))
            for slot, row in enumerate(tokens)
            if len(row) < len(prompts[slot]) + limit
        ]
        ids = [token for segment in segments for token in tokens[segment.slot][segment.start : segment.end]]
        ready = [at for at, segment in enumerate(segments) if segment.end == len(tokens[segment.slot])]
        logits, _ = stepper.step(segments, ids, ready)
        for segment in segments:
            done[segment.slot] = segment.end
        for at, token in zip(ready, logits.argmax(-1).tolist(), strict=True):
            tokens[segments[at].slot].append(token)
    return [row[len(prompt) :] for row, prompt in zip(tokens, prompts, strict=True)]


@pytest.mark.parametrize(
    "name, options",
    [
        ("Llama", {}),
        ("Llama", {"num_key_value_heads": 4, "attention_bias": True}),
        ("Qwen2", {}),
        ("Qwen3", {"head_dim": 16}),
        ("Mistral", {"sliding_window": 10}),
        ("Phi3", {}),
        ("Olmo2", {}),
        ("Granite", {"logits_scaling": 3.0, "attention_multiplier": 0.3}),
        ("GPTNeoX", {}),
        ("Gemma3", {"head_dim": 16, "sliding_window": 10}),
    ],
)
def test_architectures_equal_generate(name, options, tokenizer):
    if name == "Gemma3":
        config = transformers.Gemma3TextConfig(**{**SIZES, **options})
        with torch.random.fork_rng():
            torch.manual_seed(5)
            model = transformers.Gemma3ForCausalLM(config).eval()
    else:
        model = _build(name, **options)
    prompts = [_prompt(seed, length) for seed, length in enumerate((1, 23, 12, 40))]
    expected = [generate_alone(model, prompt, 20) for prompt in prompts]
    assert _answers(Stepper(model, tokenizer, num_slots=4, capacity=128), prompts, 20) == expected
    assert len({tuple(answer) for answer in expected}) == 4, "answers must differ for this test to see a wrong mask"


def test_soft_capped_scores_are_refused(tokenizer):
    model = _build("Gemma2", head_dim=16, attn_logit_softcapping=50.0)
    with pytest.raises(UserError, match="standard attention"):
        Stepper(model, tokenizer)


def test_recurrent_layers_are_refused(tokenizer):
    model = _build("Lfm2", layer_types=["conv", "full_attention"])
    with pytest.raises(UserError, match="standard attention"):
        Stepper(model, tokenizer)


def test_bfloat16_is_near(tokenizer):
    model = varied_model(tokenizer)
    ids = [random.Random(1).randrange(100, 40_000) for _ in range(30)]
    segments = [Segment(0, 0, 30)]
    exact = Stepper(model, tokenizer).step(segments, ids, [0])[0].log_softmax(-1)
    near = Stepper(varied_model(tokenizer).to(torch.bfloat16), tokenizer).step(segments, ids, [0])[0].log_softmax(-1)
    assert near.dtype == torch.float32
    assert float((exact - near).abs().mean()) < 0.15


def test_int8_is_near_and_takes_adapters_on_top(tokenizer):
    model, ids = varied_model(tokenizer), [random.Random(1).randrange(100, 40_000) for _ in range(30)]
    segments = [Segment(0, 0, 30)]
    exact = Stepper(model, tokenizer).step(segments, ids, [0])[0].log_softmax(-1)
    stepper = Stepper(varied_model(tokenizer), tokenizer, int8=True)
    near = stepper.step(segments, ids, [0])[0].log_softmax(-1)
    assert 0 < float((exact - near).abs().mean()) < 0.5


def test_int8_answers_with_the_new_tokens_of_an_adapter_on_tied_embeddings(tokenizer):
    ids, rows = torch.tensor([7, 8]), torch.randn(2, 48, generator=torch.Generator().manual_seed(0))
    logits = []
    for int8 in (False, True):
        stepper = Stepper(_build("Llama", tie_word_embeddings=True), tokenizer, int8=int8)
        weights = AdapterWeights("new", {}, {}, {}, token_ids=ids, token_rows={"model.embed_tokens": rows})
        index = stepper.bank.put(weights)
        logits.append(stepper.step([Segment(0, 0, 9, index)], _prompt(1, 9), [0])[0][0, ids])
    assert logits[0].abs().min() > 0.1
    torch.testing.assert_close(logits[1], logits[0], rtol=0.1, atol=0.3)


def test_answers_in_far_slots_and_of_unlike_lengths_split_into_blocks():
    segments = [Segment(0, 9, 1), Segment(2, 5, 1), Segment(9, 5, 1), Segment(10, 2000, 1), Segment(5, 0, 4)]
    plan = Plan(segments, 4096, torch.device("cpu"))
    assert [(block.first, block.count, block.length) for block in plan.blocks] == [(0, 3, 10), (9, 1, 6), (10, 1, 2001)]
    assert plan.blocks[0].lengths.tolist() == [10, 1, 6]
    assert plan.blocks[0].rows.tolist() == [0, 2]
    assert [(chunk.first, chunk.length) for chunk in plan.chunks] == [(4, 4)]
    assert plan.positions.tolist() == [9, 5, 5, 2000, 0, 1, 2, 3]


@pytest.mark.parametrize(
    "turn",
    [[0, 1, 2, 3, 4], [1, 1, 2, 2, 3, 3], [1, 2, 2, 2, 4], [2, 2, 3], [1, 1, 3, 3, 3, 5], [1, 5], [4]],
    ids=str,
)
def test_adapters_with_few_tokens_share_a_product(adapted, turn):
    """However many answers each adapter of a step has, and wherever in the bank it lies."""
    stepper, ids = adapted
    alone = []
    for row, name in enumerate(turn):
        index = stepper.bank.index(str(name) if name else None)
        stepper.step([Segment(row, 0, 9, index)], ids[row : row + 9], [])
        alone.append(stepper.step([Segment(row, 9, 1, index)], [ids[row + 9]], [0])[0][0])
    segments = [Segment(row, 9, 1, stepper.bank.index(str(name) if name else None)) for row, name in enumerate(turn)]
    order = sorted(range(len(turn)), key=lambda row: segments[row].adapter)
    together, _ = stepper.step([segments[row] for row in order], [ids[row + 9] for row in order], range(len(turn)))
    for row, found in zip(order, together, strict=True):
        torch.testing.assert_close(found, alone[row], rtol=1e-4, atol=1e-4)
    assert len({tuple(row.tolist()) for row in together}) == len(turn)


@pytest.fixture(scope="module", params=["apart", "shared products", "without kernels"])
def adapted(request, tokenizer, tmp_path_factory):
    """A stepper with five adapters, the third unloaded and its place taken by the last, and token ids."""
    folder = save_varied_model(tokenizer, tmp_path_factory.mktemp("bank"), num_adapters=5)
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "apart":
            patch.setattr(PackedLinear, "SMALLEST_FLOAT32", 1)
        if request.param == "without kernels":  # as on a GPU
            patch.setattr(lora_bank, "kernels_for", lambda dtype: None)
        stepper = Stepper(varied_model(tokenizer), tokenizer, num_slots=8, capacity=64, max_adapters=2)
    for name, number in (("1", 0), ("2", 1), ("gone", 2), ("3", 3), ("4", 4)):
        stepper.add(stepper.read(name, folder / f"adapter{number}", None))
    stepper.remove("gone")
    stepper.add(stepper.read("5", folder / "adapter2", None))
    generator = random.Random(9)
    return stepper, [generator.randrange(100, 40_000) for _ in range(40)]
