"""Batch generation over Ray Data with a pool of actors, each with its own copy of the model.

Batches are formed before Ray sees them (rows sorted by length, so that gaps are few) and travel as one item each: which
rows stand in a batch, and so every rounding in bfloat16, depends on the rows alone, not on how Ray cuts blocks. The
driver holds the questions of the split that is scored, nothing else.
"""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ftlib.core.logging import Progress, get_logger, setup_logging
from ftlib.data.records import said
from ftlib.evaluate.tasks import Answer, EvalRow, Message, prompt_hash

logger = get_logger(__name__)

TOO_LONG = "prompt_too_long"


@dataclass(frozen=True)
class SystemSpec:
    """A model that answers: its folder or source, and the adapter on it."""

    name: str
    source: str
    adapter: str | None = None


@dataclass(frozen=True)
class GenerationPlan:
    """How the actors work. `max_new_tokens` 0 generates nothing; `score` adds the reference's log-probability."""

    systems: tuple[SystemSpec, ...]
    precision: str
    max_new_tokens: int
    score: bool
    num_workers: int
    threads: int
    reserved_cpus: float
    use_gpu: bool = False


def make_batches(
    system: str, rows: Sequence[EvalRow], questions: Sequence[Sequence[Message]], batch_size: int
) -> list[dict[str, str]]:
    """Items for the actors: rows sorted by length of the question, cut into batches."""
    pairs = sorted(zip(rows, questions, strict=True), key=lambda pair: (_num_chars(pair[1]), pair[0].id))
    batches = []
    for start in range(0, len(pairs), batch_size):
        cut = pairs[start : start + batch_size]
        items = [
            {"id": row.id, "question": list(question), "reference": row.reference, "tools": list(row.tools)}
            for row, question in cut
        ]
        batches.append({"system": system, "items": json.dumps(items)})
    return batches


def _num_chars(question: Sequence[Message]) -> int:
    return sum(len(said(message)) for message in question)


class Answerer:
    """The actor: answers and scores a batch with the system it names."""

    def __init__(self, plan: GenerationPlan) -> None:
        setup_logging()
        import torch

        if not plan.use_gpu:
            # Ray sets OMP_NUM_THREADS to the CPUs that the actor reserves.
            torch.set_num_threads(max(1, min(plan.threads, os.cpu_count() or 1)))
        self._plan = plan
        self._systems = {system.name: system for system in plan.systems}
        self._engines: dict[str, Any] = {}

    def __call__(self, batch: dict[str, str]) -> dict[str, str]:
        """From `{system, items}` to `{system, answers}`, both lists as JSON."""
        from ftlib.inference.protocol import GenerationRequest
        from ftlib.models.chat import render_prompt

        system, items = self._systems[batch["system"]], json.loads(batch["items"])
        engine, runner = self._engine(system)
        answers: dict[str, Answer] = {}
        tokenizer = runner.tokenizer_of(system.adapter and CANDIDATE_ADAPTER)
        requests, references = [], []
        for item in items:
            if not item["question"]:
                answers[item["id"]] = self._score_text(engine, runner, system, item)
                continue
            prompt = list(render_prompt(tokenizer, item["question"], item["tools"]))
            reference = _reference_ids(tokenizer, item, prompt)
            room = runner.max_positions - len(prompt)
            if room < max(1, len(reference)):
                answers[item["id"]] = Answer(item["id"], "", TOO_LONG, prompt_hash(prompt), None, 0)
                continue
            limit = min(self._plan.max_new_tokens, room)
            requests.append(
                GenerationRequest(item["id"], tuple(prompt), limit, adapter=system.adapter and CANDIDATE_ADAPTER)
            )
            references.append(reference)
        generated, scored = engine.run(requests, references if self._plan.score else None)
        for index, (request, made) in enumerate(zip(requests, generated, strict=True)):
            score = scored[index] if self._plan.score else None
            answers[request.request_id] = Answer(
                id=request.request_id,
                text=made.text,
                finish_reason=made.finish_reason,
                prompt_hash=prompt_hash(request.prompt),
                log_prob=score.log_prob if score else None,
                num_tokens=score.num_tokens if score else 0,
            )
        return {"system": system.name, "answers": json.dumps([asdict(answer) for answer in answers.values()])}

    def _score_text(self, engine: Any, runner: Any, system: SystemSpec, item: dict[str, Any]) -> Answer:
        """Plain text, scored as training learns it: in consecutive pieces that share a token, the first one given."""
        from ftlib.models.chat import encode_text

        adapter = system.adapter and CANDIDATE_ADAPTER
        ids, _ = encode_text(runner.tokenizer_of(adapter), item["reference"])
        size = runner.max_positions
        pieces = [ids[start : start + size] for start in range(0, max(1, len(ids) - 1), size - 1)]
        pieces = [piece for piece in pieces if len(piece) > 1]
        if not pieces or not self._plan.score:
            return Answer(item["id"], "", "length", prompt_hash(ids[:1]), None, 0)
        scores = [engine.score_batch([piece[:1]], [piece[1:]], adapter)[0] for piece in pieces]
        log_prob = sum(score.log_prob for score in scores)
        return Answer(item["id"], "", "length", prompt_hash(ids[:1]), log_prob, sum(s.num_tokens for s in scores))

    def _engine(self, system: SystemSpec) -> tuple[Any, Any]:
        """The engine of a system's base, loaded at its first batch; systems on the same base share it."""
        from pathlib import Path

        from ftlib.inference.batch import BatchEngine
        from ftlib.inference.runner import ModelRunner
        from ftlib.models.source import resolve_source

        if system.source not in self._engines:
            device = "cuda" if self._plan.use_gpu else "cpu"
            runner = ModelRunner.load(resolve_source(system.source), self._plan.precision, device)
            self._engines[system.source] = (BatchEngine(runner), runner)
        engine, runner = self._engines[system.source]
        if system.adapter and CANDIDATE_ADAPTER not in runner.adapters:
            runner.load_adapter(CANDIDATE_ADAPTER, Path(system.adapter))
        return engine, runner


CANDIDATE_ADAPTER = "candidate"


def _reference_ids(tokenizer: Any, item: dict[str, Any], prompt: list[int]) -> list[int]:
    """The tokens that training supervises for this answer, end token included."""
    from ftlib.models.chat import encode_example

    question, reference = item["question"], item["reference"]
    ids, supervised = encode_example(tokenizer, [*question, {"role": "assistant", "content": reference}], item["tools"])
    last = max((index for index, on in enumerate(supervised) if on), default=-1)
    answer = list(ids[len(prompt) : last + 1])
    if list(ids[: len(prompt)]) == prompt and answer:
        return answer
    # A template that writes the answer's turn unlike the prompt for it: score the bare answer.
    return [*tokenizer(reference, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def answer_all(plan: GenerationPlan, batches: list[dict[str, str]], num_rows: int) -> dict[str, dict[str, Answer]]:
    """Run all batches; returns answers by system and row id. Needs a Ray connection."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items(batches, override_num_blocks=len(batches)).map(
        Answerer,
        fn_constructor_kwargs={"plan": plan},
        compute=ray.data.ActorPoolStrategy(size=plan.num_workers),
        num_cpus=plan.reserved_cpus,
        num_gpus=1 if plan.use_gpu else None,
    )
    progress = Progress("evaluate: answers", num_rows, logger)
    answers: dict[str, dict[str, Answer]] = {system.name: {} for system in plan.systems}
    for item in dataset.iter_rows():
        batch = [Answer(**values) for values in json.loads(item["answers"])]
        answers[item["system"]].update({answer.id: answer for answer in batch})
        progress.advance(len(batch))
    progress.finish()
    return answers
