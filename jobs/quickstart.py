"""`python -m jobs.quickstart [JOB.key.path=value ...]`: the tour behind `make quickstart`, tickets to endpoint."""

import sys
from pathlib import Path
from typing import Any

from ftlib.core.errors import FtlibError
from ftlib.core.logging import get_logger, setup_logging
from ftlib.runtime.quickstart import Hooks, Question, run_tour

logger = get_logger("ftlib.quickstart")
SOURCE = "embedded:smollm2-135m"
MAX_ANSWER_TOKENS = 32


def write_corpus(folder: Path) -> dict[str, Any]:
    """The sample corpus; the same seed gives the same bytes."""
    from ftlib.data.sample import write_sample

    return write_sample(folder)


def score_corpus(corpus: Path, dataset: Path) -> dict[str, Any]:
    """Shares of what was planted that was found."""
    from ftlib.data.sample_score import score_prepared

    return score_prepared(str(corpus / "truth.json"), str(dataset))


def pick_question(dataset: Path) -> Question:
    """The first short ticket of the test split, by id."""
    from ftlib.data.prepared import open_prepared

    rows = open_prepared(str(dataset)).table("test").select(["id", "messages"]).to_pylist()
    row = min(rows, key=lambda row: (len(row["messages"][-2]["content"]) > 150, row["id"]))
    messages = [{"role": item["role"], "content": item["content"]} for item in row["messages"]]
    return Question(messages[:-1], messages[-1]["content"])


def ask_base(messages: list[dict[str, str]]) -> str:
    """The untuned model's greedy answer, computed in this process."""
    from transformers.utils.logging import disable_progress_bar

    from ftlib.inference.batch import BatchEngine
    from ftlib.inference.protocol import GenerationRequest
    from ftlib.inference.runner import ModelRunner
    from ftlib.models.chat import render_prompt
    from ftlib.models.source import resolve_source

    disable_progress_bar()
    runner = ModelRunner.load(resolve_source(SOURCE))
    prompt = tuple(render_prompt(runner.tokenizer, messages))
    answers = BatchEngine(runner).generate_batch([GenerationRequest("quickstart", prompt, MAX_ANSWER_TOKENS)])
    return answers[0].text


def main() -> int:
    """Walk through the steps; returns the exit code."""
    setup_logging()
    try:
        run_tour(Hooks(write_corpus, score_corpus, pick_question, ask_base), Path.cwd(), sys.argv[1:])
    except FtlibError as error:
        logger.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        logger.error("interrupted; `make quickstart` goes on from the finished steps, `make stop` ends the Ray head")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
