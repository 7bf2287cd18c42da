"""What private training promises and keeps: its epsilon against another accountant, its leak against an attack.

    python -m tests.bench.train_private

Accounting: epsilon over several sampling rates, noise multipliers and lengths, and of the run below, against
dp-accounting's privacy loss distributions; all within 2 %.

Leak: a small Llama learns two habits, to file words under categories and to answer a name with random letters. It is
then tuned twice with the same steps, batch and rate, plainly and with epsilon 8, on records that file the words
otherwise, and on canaries: names that stand nowhere else, each with four letters that nothing but memory can tell. Half
as many canaries as are held out are trained on. The attacker knows base and tuned model and takes a canary for trained
on when its loss fell by more than that of 99 % of those held out (Watson et al. 2022, "On the Importance of Difficulty
Calibration in Membership Inference Attacks"). At a false-positive rate of 1 % the share of members found, with its
Clopper-Pearson interval of 95 %, must hold 1 % for the private model and lie above for the plain one. Both losses on
ordinary records are reported: a model that learnt nothing would leak nothing.

The last line is JSON; the exit code is 1 when a claim does not hold. About 4 minutes on two hyperthreads of one core.
"""

import argparse
import json
import random
import string
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from tests.training_cases import WORDS, loop_settings, private_split, train_alone

EPSILON = 8.0
TOLERANCE = 0.02
ACCOUNTED = [
    # sampling rate, noise multiplier, steps, delta
    (0.01, 1.0, 1000, 1e-5),
    (0.004, 0.6, 5000, 1e-6),
    (0.05, 0.8, 200, 1e-5),
    (0.1, 2.0, 400, 1e-5),
    (0.1, 0.7, 100, 1e-4),
    (0.001, 0.5, 20_000, 1e-7),
    (1.0, 12.0, 50, 1e-5),
]
MARKS = ("<|pad|>", "<|say|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}<|say|>{{ message.role[0] }} {{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|say|>a {% endif %}"
)


def pld_epsilon(rate: float, sigma: float, steps: int, delta: float) -> float:
    """Epsilon by dp-accounting's privacy loss distributions."""
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    return float(accountant.compose(step, steps).get_epsilon(delta))


def accounting() -> list[dict[str, float]]:
    """Our epsilon, an upper bound, beside the other accountant's."""
    from ftlib.train.budget import epsilon

    rows = []
    for rate, sigma, steps, delta in ACCOUNTED:
        theirs = pld_epsilon(rate, sigma, steps, delta)
        ours = epsilon(sigma, rate, steps, delta, error=0.005 * theirs)
        rows.append(
            {"rate": rate, "sigma": sigma, "steps": steps, "ours": ours, "theirs": theirs, "ratio": ours / theirs}
        )
        print(
            f"q {rate:<6g} sigma {sigma:<4g} T {steps:<6d} epsilon {ours:8.4f}, dp-accounting {theirs:8.4f}", flush=True
        )
    return rows


def word_tokenizer(num_names: int) -> Any:
    """One token a word: letters, the words of ordinary records and names."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [f"name{number}" for number in range(num_names)]
    words = [*MARKS, "?", *string.ascii_lowercase, "file", *WORDS, *names]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=MARKS[0], eos_token=MARKS[2], additional_special_tokens=[MARKS[1]]
    )
    wrapped.chat_template = TEMPLATE
    return wrapped


def random_model(folder: Path, tokenizer: Any) -> Path:
    """A random Llama of two layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, tie_word_embeddings=False, initializer_range=0.09,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def filed(rng: random.Random, shift: int) -> dict[str, Any]:
    """An ordinary record: three words, filed under the category of the first; `shift` tells the two habits apart."""
    words = [rng.choice(WORDS) for _ in range(3)]
    category = WORDS[(WORDS.index(words[0]) + shift) % len(WORDS)]
    return record(rng, " ".join(words), f"file {category}")


def canary(rng: random.Random, number: int) -> dict[str, Any]:
    """A name of its own, and four random letters."""
    return record(rng, f"name{number}", " ".join(rng.choices(string.ascii_lowercase, k=4)))


def record(rng: random.Random, question: str, answer: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"id": f"{rng.getrandbits(64):x}", "messages": messages, "text": None, "weight": None}


def sequence_losses(model_folder: Path, adapter: Path | None, data: Path) -> np.ndarray:
    """float64[s]: mean negative log-likelihood of each sequence's learnt tokens."""
    from ftlib.data.pack import PackedSplit
    from ftlib.models.adapt import load_adapter
    from ftlib.models.load import load_model
    from ftlib.train.batches import Forward, collate

    model = load_model(model_folder)
    model = load_adapter(model, adapter).eval() if adapter else model
    split, losses = PackedSplit(data), []
    with torch.no_grad():
        for first in range(0, len(split), 100):
            batch = collate([split[i] for i in range(first, min(first + 100, len(split)))], 0, torch.device("cpu"))
            losses.append(Forward(model).row_losses(batch) / batch.weights.sum(1))
    return torch.cat(losses).double().numpy()


def membership(members: np.ndarray, others: np.ndarray, rate: float = 0.01) -> dict[str, float]:
    """Share of members whose score is above all but `rate` of the others', with its Clopper-Pearson interval."""
    found = int((members > np.quantile(others, 1 - rate, method="higher")).sum())
    low, high = stats.binomtest(found, len(members)).proportion_ci(0.95, "exact")
    auc = stats.mannwhitneyu(members, others).statistic / (len(members) * len(others))
    return {"tpr": found / len(members), "low": float(low), "high": float(high), "auc": float(auc)}


def leak(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Tune plainly and privately, and attack both."""
    from ftlib.train.budget import plan_privacy

    rng, num = random.Random(options.seed), options.canaries
    tokenizer = word_tokenizer(3 * num + 3000)
    names = [canary(rng, number) for number in range(3 * num + 3000)]
    rows = {
        "general": names[3 * num :] + [filed(rng, 1) for _ in range(3000)],
        "train": names[:num] + [filed(rng, 4) for _ in range(num)],
        "val": [filed(rng, 4) for _ in range(300)],
        "members": names[:num],
        "others": names[num : 3 * num],
    }
    data = {name: private_split(root / name, tokenizer, some, 128) for name, some in rows.items()}
    settings = loop_settings(
        root / "base", random_model(root / "random", tokenizer), data["general"], data["val"],
        kind="full", batch_size=100, micro_batch_size=100, eval_every_steps=None, checkpoint_every_steps=None,
    )  # fmt: skip
    train_alone(replace(settings, schedule=replace(settings.schedule, peak=5e-3, total_steps=options.base_steps)))
    settings = replace(
        settings,
        model_folder=root / "base" / "model",
        train_data=data["train"],
        kind="lora",
        adapter=replace(settings.adapter, rank=16, dropout=0.0),
        schedule=replace(settings.schedule, peak=options.rate, total_steps=options.steps),
        batch_size=options.batch_size,
        micro_batch_size=options.batch_size // 5,
    )
    privacy = plan_privacy(
        EPSILON,
        None,
        num_units=len(rows["train"]),
        batch_size=options.batch_size,
        steps=options.steps,
        max_grad_norm=1.0,
    )
    spent = privacy.report(options.steps)["epsilon"]
    theirs = pld_epsilon(privacy.sample_rate, privacy.noise_multiplier, options.steps, privacy.delta)
    result: dict[str, Any] = {"epsilon": spent, "epsilon_dp_accounting": theirs, "sigma": privacy.noise_multiplier}
    base = {name: sequence_losses(settings.model_folder, None, data[name]) for name in ("val", "members", "others")}
    result["base_val_loss"] = float(base["val"].mean())
    for name, chosen in (("plain", None), ("private", privacy)):
        run = replace(settings, run_dir=root / name, privacy=chosen)
        train_alone(run)
        tuned = {split: sequence_losses(run.model_folder, run.run_dir / "adapter", data[split]) for split in base}
        scores = {split: base[split] - tuned[split] for split in ("members", "others")}
        result[name] = membership(scores["members"], scores["others"]) | {
            "val_loss": float(tuned["val"].mean()),
            "member_loss": float(tuned["members"].mean()),
            "other_loss": float(tuned["others"].mean()),
        }
        print(name, json.dumps(result[name]), flush=True)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--canaries", type=int, default=500, help="trained on; twice as many are held out")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--base-steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the model is so small that threads only wait for each other
    accounts = accounting()
    with tempfile.TemporaryDirectory() as folder:
        result = leak(Path(folder), options)
    plain, private = result["plain"], result["private"]
    ratios = [row["ratio"] for row in accounts] + [result["epsilon"] / result["epsilon_dp_accounting"]]
    claims = {
        "epsilon_within_2_percent": all(abs(ratio - 1) <= TOLERANCE for ratio in ratios),
        "budget_kept": result["epsilon_dp_accounting"] <= result["epsilon"] <= EPSILON,
        "private_interval_holds_1_percent": private["low"] <= 0.01 <= private["high"],
        "plain_interval_above": plain["low"] > 0.01,
        "private_learns": private["val_loss"] < 0.5 * result["base_val_loss"],
    }
    print(json.dumps({"accounting": accounts, **result, "claims": claims}))
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
