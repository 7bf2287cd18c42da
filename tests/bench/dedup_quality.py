"""Near-duplicates of real documents against brute force: what deduplication promises, counted.

    python -m tests.bench.dedup_quality [--rows N] [--thresholds 0.6,0.8]

For each set and threshold, exact Jaccard similarities of all pairs are worked out from word n-grams by a sparse matrix
product, without ftlib's hashing. Then: the share of pairs at or above the threshold that share a band, beside what the
S-curve says for these very similarities; drops whose keeper is below the threshold or whose score is wrong; rows lost;
the share of the rows dropped by brute force that are dropped; and whether the decisions are the same for several block
sizes, partitions and numbers of CPUs. Pairs that differ in symbols or values (`text.symbols`: $160, $350) are counted
and not expected to be dropped. The last line is JSON. Sets lie in `../shared/data`; absent ones are named.

Sets of its own, always there: 200 texts in each of four languages with a copy of each in which two words are changed,
and 300 tickets under one instruction of 160 words with copies of 100 of them in which one word is changed.
"""

import argparse
import gzip
import json
import random
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
NGRAM, NUM_PERMUTATIONS = 5, 128
KEY = b"k" * 32
LAYOUTS = [(1, 2048, 8), (2, 2048, 8), (2, 100, 3), (2, 17, 1)]
"""CPUs, rows of a block, partitions."""
WORD = re.compile(r"\w+")
Decision = tuple[str, str, str, float]
"""Id, keeper's id, reason, score."""


def documents(data: Path, num_rows: int) -> list[str]:
    """Whole families: all versions of pages that are taken at random."""
    table = pq.read_table(data / "dedup" / "docs_versions_14885.parquet", columns=["text", "page"])
    pages = np.array(table["page"].to_pylist())
    order = np.random.default_rng(0).permutation(np.unique(pages))
    chosen = np.isin(pages, order[: np.searchsorted(np.cumsum([np.sum(pages == page) for page in order]), num_rows)])
    return [
        text for text in table["text"].filter(pa.array(chosen)).to_pylist() if text.strip()
    ]  # others are no records


def tickets(data: Path, num_rows: int) -> list[str]:
    with gzip.open(data / "tickets" / "bitext_support_6480.jsonl.gz", "rt", encoding="utf-8") as file:
        return [row["instruction"] + "\n" + row["response"] for row in map(json.loads, file)][:num_rows]


def grams(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return {tuple(words[i : i + NGRAM]) for i in range(max(len(words) - NGRAM + 1, 1))}


def similarities(texts: Sequence[str]) -> np.ndarray:
    """Exact Jaccard similarity of all pairs; float32 [num_texts, num_texts]."""
    numbers: dict[tuple[str, ...], int] = {}
    rows = [[numbers.setdefault(gram, len(numbers)) for gram in grams(text)] for text in texts]
    sizes = np.array([len(row) for row in rows])
    columns = np.concatenate(rows)
    matrix = csr_matrix(
        (np.ones(len(columns), dtype=np.int32), columns, np.concatenate([[0], np.cumsum(sizes)])),
        shape=(len(rows), len(numbers)),
    )
    common = np.asarray((matrix @ matrix.T).todense())
    return common / (sizes[:, None] + sizes[None, :] - common)


NUM_PLANTED, NUM_TICKETS, NUM_COPIES = 200, 300, 100
SCRIPTS = {
    "english": (None, 100, 2, " "),
    "chinese": ((0x4E00, 0x9000), 170, 4, ""),
    "japanese": ((0x3041, 0x3096), 200, 4, ""),
    "korean": ((0xAC00, 0xC000), 60, 2, " "),
}
"""Language → code points, units of a text, units changed, what joins them. Units are words, in Chinese and Japanese
characters (about 1.7 and 2 of them are a word); Korean words are three syllables."""


def invented_words(generator: random.Random, count: int) -> list[str]:
    return ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(count)]


def planted(language: str) -> list[str]:
    """Texts, then a copy of each with a few neighbouring units changed."""
    letters, length, num_changed, blank = SCRIPTS[language]
    generator = random.Random(language)
    units = invented_words(generator, 2000)
    if letters is not None:
        size = 3 if blank else 1
        units = ["".join(chr(generator.randrange(*letters)) for _ in range(size)) for _ in range(2000)]
    texts = [generator.choices(units, k=length) for _ in range(NUM_PLANTED)]
    copies = []
    for text in texts:
        copy, step = list(text), num_changed // 2
        for place in generator.sample(range(0, length - step, step), 2):
            copy[place : place + step] = generator.choices(units, k=step)
        copies.append(copy)
    return [blank.join(text) for text in [*texts, *copies]]


def shared_instruction() -> list[str]:
    """Tickets under one instruction, then copies of the first of them with one word changed."""
    generator = random.Random(7)
    known, instruction = invented_words(generator, 300), " ".join(invented_words(generator, 160))
    tickets = [generator.choices(known, k=generator.randint(12, 60)) for _ in range(NUM_TICKETS)]
    copies = [list(ticket) for ticket in tickets[:NUM_COPIES]]
    for copy in copies:
        copy[generator.randrange(len(copy))] = "changed"
    return [f"{instruction} {' '.join(ticket)} billing" for ticket in [*tickets, *copies]]


def planted_figures(num_first: int, texts: Sequence[str], drops: list[Decision]) -> dict[str, Any]:
    """How many copies are dropped, and how many of the texts that should stay."""
    dropped = {int(row[0]) for row in drops}
    copies = len(texts) - num_first
    return {
        "num_documents": len(texts),
        "num_copies": copies,
        "recall": round(sum(row >= num_first for row in dropped) / copies, 4),
        "num_others_dropped": sum(row < num_first for row in dropped),
    }


def other_meanings(texts: Sequence[str], similar: np.ndarray, threshold: float) -> np.ndarray:
    """Pairs at or above the threshold that differ in symbols or values; bool [num_texts, num_texts]."""
    from ftlib.text.keyed import KeyedHash
    from ftlib.text.symbols import Meanings

    meanings = Meanings.of(texts, KeyedHash(KEY, "symbols"))
    found = np.zeros(similar.shape, dtype=bool)
    for left, right in zip(*np.nonzero(np.triu(similar >= threshold, 1)), strict=True):
        found[left, right] = found[right, left] = meanings.differ(left, right, float(similar[left, right]))
    return found


def brute_force(similar: np.ndarray, threshold: float) -> int:
    """How many rows fall when each in turn is compared with all that are kept."""
    kept: list[int] = []
    for row in range(len(similar)):
        if not kept or similar[row, kept].max() < threshold:
            kept.append(row)
    return len(similar) - len(kept)


def band_recall(texts: Sequence[str], similar: np.ndarray, threshold: float) -> dict[str, Any]:
    """Of the pairs at or above the threshold: how many share a band, and how many the S-curve expects."""
    from ftlib.text.keyed import KeyedHash
    from ftlib.text.minhash import band_keys, choose_bands, collision_probability, shingle, signatures

    bands, rows = choose_bands(threshold, NUM_PERMUTATIONS)
    sketches = signatures(shingle(texts, NGRAM, KeyedHash(KEY, "token")), NUM_PERMUTATIONS)
    keys = band_keys(sketches, bands, rows)
    left, right = np.nonzero(np.triu(similar >= threshold, 1))
    found = np.array([bool((keys[i] == keys[j]).any()) for i, j in zip(left, right, strict=True)], dtype=bool)
    expected = [collision_probability(value, bands, rows) for value in similar[left, right]]
    return {
        "num_pairs": len(left),
        "recall": round(float(found.mean()), 4) if len(left) else 1.0,
        "s_curve": round(float(np.mean(expected)), 4) if len(left) else 1.0,
    }


def decide(path: Path, threshold: float, layout: tuple[int, int, int]) -> tuple[int, list[Decision]]:
    """Rows read, and the drops of `jobs.prepare`'s dedup stage. Needs a connected cluster."""
    import ray

    from ftlib.config.prepare import PrepareConfig
    from ftlib.data.dedup import DEDUP
    from ftlib.data.flow import Flow
    from ftlib.data.inputs import find_inputs
    from ftlib.data.passes import configure_ray_data
    from ftlib.data.plan import plan_reads

    _, rows_per_block, num_partitions = layout
    config = PrepareConfig.model_validate(
        {
            "input": {"paths": [str(path)]},
            "output": {"path": "unused"},
            "dedup": {"threshold": threshold, "num_permutations": NUM_PERMUTATIONS, "ngram": NGRAM},
            "execution": {"rows_per_block": rows_per_block, "num_partitions": num_partitions},
        }
    )
    configure_ray_data()
    tasks = plan_reads(find_inputs(config.input.paths), config.input, KEY)
    _, rows, _, decided = Flow(config, KEY, tasks, config.output.path).find_duplicates()
    found = [row for block in ray.get(decided.blocks) for row in block.to_pylist() if row["stage"] == DEDUP]
    return rows.num_rows, sorted((row["id"], row["keeper_id"], row["reason"], row["score"]) for row in found)


def id_of(number: int) -> str:
    return f"{number:06d}"


def check(
    similar: np.ndarray, same: np.ndarray, threshold: float, num_rows: int, drops: list[Decision]
) -> dict[str, Any]:
    """Decisions against similarities. `same`: the similarities, 0 for pairs of other meaning."""
    dropped = {row[0] for row in drops}
    exact = [float(similar[int(row), int(keeper)]) for row, keeper, _, _ in drops]
    kept = np.array([row for row in range(len(similar)) if id_of(row) not in dropped], dtype=np.int64)
    between = same[np.ix_(kept, kept)]
    expected = brute_force(same, threshold)
    return {
        "num_dropped": len(drops),
        "num_dropped_by_brute_force": expected,
        "drop_recall": round(len(drops) / expected, 4) if expected else 1.0,
        "num_below_threshold": sum(value < threshold for value in exact),
        "num_wrong_scores": sum(abs(row[3] - value) > 1e-6 for row, value in zip(drops, exact, strict=True)),
        "num_keepers_dropped": sum(keeper in dropped for _, keeper, _, _ in drops),
        "num_rows_lost": len(similar) - num_rows + len(drops) - len(dropped),
        "num_similar_pairs_kept": int(np.count_nonzero(np.triu(between >= threshold, 1))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000, help="documents of each set")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sets")
    parser.add_argument("--thresholds", default="0.6,0.8")
    arguments = parser.parse_args()
    from ftlib.config.base import ClusterConfig
    from ftlib.runtime.cluster import connect

    thresholds = [float(value) for value in arguments.thresholds.split(",")]
    results: dict[str, Any] = {}
    sets: dict[str, tuple[list[str], np.ndarray, Path]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, read in (("docs_versions", documents), ("bitext_support", tickets)):
            try:
                texts = read(arguments.data, arguments.rows)
            except FileNotFoundError as error:
                results[name] = {"skipped": f"no file at {error.filename}"}
                continue
            path = Path(folder, f"{name}.parquet")
            ids = [id_of(number) for number in range(len(texts))]
            pq.write_table(pa.table({"id": ids, "text": texts}), path, row_group_size=500)
            sets[name] = texts, similarities(texts), path
        decided: dict[tuple[str, float], list[tuple[int, list[Decision]]]] = {}
        own = {**{name: planted(name) for name in SCRIPTS}, "shared_instruction": shared_instruction()}
        for num_cpus in sorted({layout[0] for layout in LAYOUTS}):
            with connect(ClusterConfig(address="local", num_cpus=num_cpus)):
                for name, (_, _, path) in sets.items():
                    for threshold in thresholds:
                        for layout in (layout for layout in LAYOUTS if layout[0] == num_cpus):
                            decided.setdefault((name, threshold), []).append(decide(path, threshold, layout))
                if num_cpus > 1:
                    for name, texts in own.items():
                        path = Path(folder, f"{name}.parquet")
                        pq.write_table(pa.table({"id": [id_of(n) for n in range(len(texts))], "text": texts}), path)
                        num_first = NUM_TICKETS if name == "shared_instruction" else NUM_PLANTED
                        results[name] = planted_figures(num_first, texts, decide(path, 0.8, LAYOUTS[1])[1])
                        print(name, results[name], flush=True)
    for (name, threshold), runs in decided.items():
        texts, similar, _ = sets[name]
        others = other_meanings(texts, similar, threshold)
        same = np.where(others, 0.0, similar)
        figures = {
            "num_documents": len(texts),
            **band_recall(texts, similar, threshold),
            "num_pairs_of_other_meaning": int(np.count_nonzero(np.triu(others))),
            **check(similar, same, threshold, *runs[0]),
            "identical_over_layouts": all(run == runs[0] for run in runs),
        }
        print(name, threshold, figures, flush=True)
        results[f"{name}@{threshold}"] = figures
    print(json.dumps({"bench": "dedup_quality", "layouts": LAYOUTS, "sets": results}))


if __name__ == "__main__":
    main()
