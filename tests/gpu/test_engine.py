"""The embedded engine on a GPU, in one plain process: its answers are those of PEFT's `generate`."""

import asyncio
import random

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from ftlib.core.errors import UserError
from ftlib.inference.embedded import EmbeddedEngine
from ftlib.inference.protocol import GenerationRequest
from ftlib.inference.stepper import Stepper
from ftlib.models.load import load_model
from tests.gpu.cases import write_llama
from tests.inference_cases import generate_alone

pytestmark = pytest.mark.gpu
SIZES = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.4, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama and two random adapters."""
    root = tmp_path_factory.mktemp("engine")
    write_llama(root / "base", torch.device("cpu"), **SIZES)
    for number in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(number)
            config = LoraConfig(
                r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM",
                use_dora=number == 1,
            )  # fmt: skip
            get_peft_model(load_model(root / "base"), config).save_pretrained(root / f"adapter{number}")
    return root


@pytest.fixture(scope="module")
def engine(device, folder):
    engine = EmbeddedEngine(
        lambda: Stepper.load(folder / "base", "float32", str(device), num_slots=6, capacity=256),
        max_rows=4,
        prefill_tokens=16,
    )
    engine.start()
    for number in range(2):
        engine.load_adapter(str(number), folder / f"adapter{number}")
    yield engine
    engine.stop()


def prompt_of(seed, length):
    generator = random.Random(seed)
    return tuple(generator.randrange(4, 512) for _ in range(length))


def run(engine, requests):
    async def one(request):
        return [event async for event in engine.submit(request)]

    async def together():
        return await asyncio.gather(*(one(request) for request in requests))

    return asyncio.run(together())


def test_mixed_adapters_equal_peft(device, folder, engine):
    requests = [
        GenerationRequest(f"{name}-{turn}", prompt_of(turn % 3, 5 + 11 * turn), 12, adapter=name, ignore_eos=True)
        for turn in range(4)
        for name in (None, "0", "1")
    ]
    answers = run(engine, requests)
    for name in (None, "0", "1"):
        model = load_model(folder / "base", device=device)
        model = model if name is None else PeftModel.from_pretrained(model, folder / f"adapter{name}")
        for request, events in zip(requests, answers, strict=True):
            if request.adapter == name:
                expected = generate_alone(model.cpu().float(), list(request.prompt), 12)
                assert [event.token for event in events] == expected


def test_draws_do_not_depend_on_neighbours(engine):
    request = GenerationRequest("r", prompt_of(1, 9), 16, temperature=1.0, top_p=0.9, seed=3, ignore_eos=True)
    others = [GenerationRequest(f"o{i}", prompt_of(i, 20), 9, temperature=0.7, ignore_eos=True) for i in range(3)]
    (alone,), (beside, *_) = run(engine, [request]), run(engine, [request, *others])
    assert [event.token for event in alone] == [event.token for event in beside]


def test_bfloat16_is_near(device, folder):
    from ftlib.inference.slots import Segment

    ids = list(prompt_of(5, 40))
    exact, near = (
        Stepper(load_model(folder / "base", dtype, device), engine_tokenizer(folder)).step(
            [Segment(0, 0, 40)], ids, [0]
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    difference = (exact[0].log_softmax(-1) - near[0].log_softmax(-1)).abs().mean()
    assert 0 < float(difference) < 0.3


def engine_tokenizer(folder):
    from ftlib.models.load import load_tokenizer

    return load_tokenizer(folder / "base")


def test_int8_is_refused_on_a_gpu(folder, only_gpu):
    with pytest.raises(UserError, match="int8 is for CPUs"):
        Stepper.load(folder / "base", "int8", str(only_gpu))
