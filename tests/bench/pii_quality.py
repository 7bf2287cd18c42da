"""Recall and precision of the `enterprise` profile on labelled sets, beside plain Presidio in the same run.

A gold span is found when 75 % of its characters are covered by redactions of any type; a redaction is false when less
than half of it lies in any gold span. Kinds that are no identifiers do not count as misses.

`precision` counts every finding. Two further figures beside it tell how much of the rest is the sets' own doing:
`precision_dates_aside` leaves out findings that are a bare calendar date, where a set labels none but dates of birth,
and `precision_repeats_aside` also those whose words all stand in gold spans of the same text (`Timothy` below a marked
`Timothy Hill`).

With a second NER engine (a token classifier that `small_classifier` trains first, on sentences of its own), both in
one configuration: the union's recall is at least each one's, or the benchmark ends with 1.

    python -m tests.bench.pii_quality [--rows N] [--no-peer] [--no-second] [--second FOLDER]

The last line is JSON. The sets lie in `../shared/data/pii`; without them the benchmark says so and ends.
"""

import argparse
import gzip
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ftlib.config.prepare import NerEngineConfig, PiiConfig
from ftlib.text.pii import PiiAnalyzer
from tests.bench.small_classifier import train

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "pii"
NOT_COUNTED = {
    "MEDICATION_NAME", "HEALTH_CONDITION", "PROCEDURE_NAME", "JOB_TITLE", "TITLE", "NATIONALITY", "RELIGIOUS_BELIEF",
    "ETHNICITY", "MARITAL_STATUS", "HOUSEHOLD_SIZE", "BIOMETRIC_ID",
}  # fmt: skip
UNSTRUCTURED = {
    "PERSON", "PERSON_NAME", "LOCATION", "LOCATION_NAME", "ORGANIZATION", "ORGANIZATION_NAME", "ADDRESS",
    "STREET_ADDRESS", "PREFIX", "GENDER", "POLITICAL_OPINION", "EDUCATION_LEVEL", "SALARY", "VEHICLE_MODEL",
}  # fmt: skip
Span = tuple[int, int]
Finder = Callable[[Sequence[str]], list[list[Span]]]


def read_set(path: Path, num_rows: int | None = None) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file][:num_rows]


def covered(span: Span, others: Sequence[Span]) -> float:
    """Share of a span's characters that lie in any of the others."""
    inside = {place for start, end in others for place in range(max(start, span[0]), min(end, span[1]))}
    return len(inside) / (span[1] - span[0])


CALENDAR_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}", re.ASCII)
_NO_WORDS_OF_NAMES = frozenset("dr mr mrs ms prof rn nurse patient attorney officer".split())  # noqa: SIM905


def labels_date(row: dict[str, Any]) -> bool:
    """Whether a row's gold spans hold a bare calendar date that is no date of birth."""
    return any(
        gold["entity"] != "DATE_OF_BIRTH" and CALENDAR_DATE.fullmatch(row["text"][gold["start"] : gold["end"]].strip())
        for gold in row["spans"]
    )


def words_of(value: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]{2,}", value.lower())) - _NO_WORDS_OF_NAMES


def is_repeated(value: str, marked: set[str]) -> bool:
    """Whether all words of a value (it has no digits) stand in gold spans of its text."""
    words = words_of(value)
    return bool(words) and not any(map(str.isdigit, value)) and words <= marked


def score(rows: Sequence[dict[str, Any]], found: Sequence[Sequence[Span]]) -> dict[str, Any]:
    gold_by, hit_by, num_true, num_dates, num_repeats = Counter(), Counter(), 0, 0, 0
    dates_labelled = any(labels_date(row) for row in rows)
    for row, spans in zip(rows, found, strict=True):
        for gold in row["spans"]:
            if gold["entity"] not in NOT_COUNTED:
                gold_by[gold["entity"]] += 1
                hit_by[gold["entity"]] += covered((gold["start"], gold["end"]), spans) >= 0.75
        gold_spans = [(gold["start"], gold["end"]) for gold in row["spans"]]
        false = [span for span in spans if covered(span, gold_spans) < 0.5]
        num_true += len(spans) - len(false)
        values = [row["text"][start:end] for start, end in false]
        dates = [] if dates_labelled else [value for value in values if CALENDAR_DATE.fullmatch(value.strip())]
        marked = {word for start, end in gold_spans for word in words_of(row["text"][start:end])}
        num_dates += len(dates)
        num_repeats += sum(value not in dates and is_repeated(value, marked) for value in values)
    num_found = sum(map(len, found))
    structured = [entity for entity in gold_by if entity not in UNSTRUCTURED]

    def recall(entities: Sequence[str]) -> float:
        total = sum(gold_by[entity] for entity in entities)
        return round(sum(hit_by[entity] for entity in entities) / total, 4) if total else 1.0

    def precision(num_aside: int) -> float:
        return round(num_true / (num_found - num_aside), 4) if num_found > num_aside else 1.0

    return {
        "recall": recall(list(gold_by)),
        "recall_structured": recall(structured),
        "precision": precision(0),
        "precision_dates_aside": precision(num_dates),
        "precision_repeats_aside": precision(num_dates + num_repeats),
        "by_entity": {entity: [hit_by[entity], count] for entity, count in gold_by.most_common()},
    }


def ftlib_finder(config: PiiConfig | None = None) -> Finder:
    analyzer = PiiAnalyzer(config or PiiConfig())
    return lambda texts: [[(item.start, item.end) for item in items] for items in analyzer.analyze(texts)]


def presidio_finder() -> Finder:
    """Presidio as it comes, on the same spaCy pipeline."""
    import tldextract
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    from ftlib.text.pii.ner import resolve_pipeline

    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    models = [{"lang_code": "en", "model_name": resolve_pipeline("auto", "en")}]
    nlp_engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    engine = AnalyzerEngine(nlp_engine=nlp_engine)

    def find(texts: Sequence[str]) -> list[list[Span]]:
        return [[(item.start, item.end) for item in engine.analyze(text, language="en")] for text in texts]

    return find


def second_finders(folder: Path) -> dict[str, Finder]:
    """A small classifier alone, and beside the spaCy pipeline."""
    model = folder if (folder / "config.json").is_file() else train(folder)
    second = NerEngineConfig(engine="transformers", model=str(model))
    return {
        "second": ftlib_finder(PiiConfig(ner_engine="none", ner_engines=[second])),
        "union": ftlib_finder(PiiConfig(ner_engines=[second])),
    }


def measure(finder: Finder, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    started = time.perf_counter()
    found = finder([row["text"] for row in rows])
    seconds = time.perf_counter() - started
    return {**score(rows, found), "rows_per_s": round(len(rows) / seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=None, help="only the first rows of each set")
    parser.add_argument("--no-peer", action="store_true", help="leave plain Presidio out")
    parser.add_argument("--second", type=Path, default=None, help="folder of the second engine; trained where empty")
    parser.add_argument("--no-second", action="store_true", help="leave the second NER engine out")
    arguments = parser.parse_args()
    files = sorted(DATA.glob("*.jsonl.gz"))
    if not files:
        print(json.dumps({"bench": "pii_quality", "skipped": f"no labelled sets in {DATA}"}))
        return
    finders = {"ftlib": ftlib_finder()} | ({} if arguments.no_peer else {"presidio": presidio_finder()})
    if not arguments.no_second:
        kept = arguments.second or Path(tempfile.mkdtemp(prefix="second-engine-"))
        finders |= second_finders(kept)
    results: dict[str, Any] = {}
    for path in files:
        rows = read_set(path, arguments.rows)
        results[path.name.removesuffix(".jsonl.gz")] = by_finder = {
            name: measure(f, rows) for name, f in finders.items()
        }
        for name, figures in by_finder.items():
            print(path.name, name, {key: value for key, value in figures.items() if key != "by_entity"})
            print("   ", ", ".join(f"{entity} {hit}/{n}" for entity, (hit, n) in figures.pop("by_entity").items()))
    print(json.dumps({"bench": "pii_quality", "sets": results}))
    for name, by_finder in results.items():
        recall = {finder: figures["recall"] for finder, figures in by_finder.items()}
        if "union" in recall and recall["union"] < max(recall["ftlib"], recall["second"]):
            raise SystemExit(f"{name}: the union of two engines finds less than one of them: {recall}")


if __name__ == "__main__":
    main()
