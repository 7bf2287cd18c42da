"""What every engine must do, by a real vLLM on the embedded model with random adapters, in float32."""

import pytest

from tests.inference_conformance import (
    ADAPTERS,
    MAX_LEN,
    MAX_ROWS,
    MAX_WAITING,
    EngineConformance,
    Served,
    load_adapters,
    load_peers,
)
from tests.vllm_case import needs_vllm, vllm_engine

pytestmark = [needs_vllm, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def served(smollm2, tokenizer, tmp_path_factory):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("conformance")
    (folder / "base").symlink_to(smollm2)
    for seed, name in enumerate(ADAPTERS.values()):
        config = LoraConfig(
            r=4, lora_alpha=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32), config)
        model.save_pretrained(folder / name)
    engine = vllm_engine(smollm2, max_waiting=MAX_WAITING, max_rows=MAX_ROWS, max_model_len=MAX_LEN, max_loras=3)
    engine.start()
    load_adapters(engine, folder)
    yield Served(engine, folder, load_peers(folder), tokenizer)
    engine.stop()


class TestVllm(EngineConformance):
    """Skips say what vLLM's capabilities leave out."""
