"""Records that say the same in other words, kept on one side of the split (SemDeDup's search, Abbas et al. 2023).

In: redacted rows. Out: edges between rows whose texts' embeddings are alike, and figures of diversity. An encoder given
by path turns each text into a vector (mean of the last layer's tokens, of length one). Vectors are put into cells by
k-means on a sample; within each cell all pairs are compared, so that a pair across the border of two cells is missed.

Vectors are rounded to whole numbers: their products are exact, and texts are embedded one at a time, so that neither
blocks nor partitions change what is found. Cost: one pass of the encoder over each kept text on the CPUs, then the
square of the rows of each cell.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ftlib.config.prepare import SemanticConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.data.report_facts import SemanticFacts
from ftlib.data.row_keys import row_keys
from ftlib.data.sign import spoken
from ftlib.runtime.exchange import exchange, gather, map_blocks
from ftlib.text.components import Edges, forest
from ftlib.text.keyed import UInt64s, mix64

logger = get_logger(__name__)

SCALE = 4096
"""Vectors of length one times this are rounded: products of numbers so small are exact in double precision."""
ROWS_PER_CELL = 1000
_SAMPLE = 20_000
_MIN_SAMPLE_PER_CELL = 20
_ITERATIONS = 20
_ROWS_AT_ONCE = 256
_SALT = np.uint64(0x9FB21C651E98DF25)


@dataclass(frozen=True)
class Embedded:
    """Rows of a block and their vectors."""

    rows: UInt64s
    vectors: np.ndarray
    """int16 [num_rows, dim]."""


@dataclass(frozen=True)
class _Found:
    """What the cells of a partition hold."""

    edges: Edges
    sizes: dict[int, int]
    num_alike: int
    nearest: float
    """Sum over the rows of cells with two rows or more of the similarity to the nearest other row."""
    num_compared: int


def find_semantic(
    processed: Sequence[Any], kept: Any, config: SemanticConfig, num_partitions: int
) -> tuple[list[Any], SemanticFacts | None]:
    """Edges between kept rows of the same meaning (references), and what was found.

    Args:
        processed: references of `PROCESSED` tables.
        kept: tables of a block → its rows that go into a split.
        config: of the search; without a model nothing is done.
        num_partitions: of the exchange.
    """
    import ray

    if config.model is None:
        return [], None
    model, max_tokens = config.model, config.max_tokens

    def embed_block(tables: list[pa.Table]) -> Embedded:
        table = kept(tables)
        return Embedded(
            row_keys(table), embed(["\n".join(spoken(row)) for row in table.to_pylist()], model, max_tokens)
        )

    blocks = map_blocks(processed, embed_block)
    sizes = gather(map_blocks(blocks, lambda found: sum(len(item.rows) for item in found)), "embedding", logger)
    num_rows = sum(sizes)
    rate = min(1.0, _SAMPLE / max(num_rows, 1))
    samples = gather(map_blocks(blocks, lambda found: [_sample(item, rate) for item in found]), "sampling", logger)
    sample = _together([item for part in samples for item in part])
    if not len(sample.rows):
        return [], None
    centres = find_centres(sample.vectors, config.num_cells or -(-num_rows // ROWS_PER_CELL))
    shared = ray.put(centres)

    def partition(found: list[Embedded]) -> list[tuple[np.ndarray, Embedded]]:
        block = _together(found)
        cells = nearest_centre(block.vectors, ray.get(shared))
        parts = (np.flatnonzero(cells % num_partitions == number) for number in range(num_partitions))
        return [(cells[index], Embedded(block.rows[index], block.vectors[index])) for index in parts]

    def reduce(_: int, pieces: list[tuple[np.ndarray, Embedded]]) -> _Found:
        return _compare(pieces, config.threshold)

    parts = exchange(blocks, partition, reduce, num_partitions)
    edges = map_blocks(parts, lambda found: forest(np.concatenate([item.edges for item in found])))
    totals = gather(map_blocks(parts, lambda found: [_without_edges(item) for item in found]), "comparing", logger)
    return edges, _facts([item for part in totals for item in part], len(centres))


def check_model(path: str) -> None:
    """Raise UserError where no encoder can be loaded from a path."""
    try:
        _encoder(path)
    except Exception as error:
        raise UserError(
            f"dedup.semantic.model {path!r} is no encoder that transformers can load ({type(error).__name__}); "
            "give a folder with config.json, the tokenizer's files and model.safetensors that every node sees"
        ) from error


@functools.lru_cache(maxsize=1)
def _encoder(path: str) -> tuple[Any, Any]:
    """Tokeniser and model; no code of the folder is run and nothing is downloaded."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True)
    return tokenizer, model.eval().float()


def embed(texts: Sequence[str], model_path: str, max_tokens: int) -> np.ndarray:
    """Vectors of texts, cut to a number of tokens; int16 [num_texts, dim], of length `SCALE`."""
    import torch

    tokenizer, model = _encoder(model_path)
    # Some encoders count positions from two on.
    positions = int(getattr(model.config, "max_position_embeddings", max_tokens + 2))
    longest = max(1, min(max_tokens, positions - 2, tokenizer.model_max_length))
    found = np.zeros((len(texts), int(model.config.hidden_size)), dtype=np.int16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, text in enumerate(texts):
            tokens = tokenizer(text, truncation=True, max_length=longest, return_tensors="pt")
            if not tokens["input_ids"].numel():
                continue
            with torch.inference_mode():
                mean = model(**tokens).last_hidden_state[0].mean(dim=0).double().numpy()
            found[number] = np.rint(SCALE * mean / max(float(np.linalg.norm(mean)), 1e-12))
    finally:
        torch.set_num_threads(threads)
    return found


def find_centres(vectors: np.ndarray, num_cells: int) -> np.ndarray:
    """Centres by k-means over directions; int64 [num_cells, dim]. `vectors`: in an order that depends on rows alone."""
    wanted = max(1, min(num_cells, len(vectors) // _MIN_SAMPLE_PER_CELL))
    start = np.unique(vectors, axis=0)
    picked = np.random.default_rng(0).permutation(len(start))[: min(wanted, len(start))]
    centres = start[np.sort(picked)].astype(np.int64)
    for _ in range(_ITERATIONS):
        cells = nearest_centre(vectors, centres)
        sums = np.zeros(centres.shape, dtype=np.int64)
        np.add.at(sums, cells, vectors.astype(np.int64))
        lengths = np.linalg.norm(sums.astype(np.float64), axis=1, keepdims=True)
        moved = np.where(lengths > 0, np.rint(SCALE * sums / np.maximum(lengths, 1e-12)), centres).astype(np.int64)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def nearest_centre(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Number of the centre in each vector's direction, the first of equals; int64 [num_vectors]."""
    transposed = centres.T.astype(np.float64)
    parts = [
        np.argmax(vectors[start : start + _ROWS_AT_ONCE].astype(np.float64) @ transposed, axis=1)
        for start in range(0, len(vectors), _ROWS_AT_ONCE)
    ]
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def alike_pairs(block: Embedded, threshold: float) -> tuple[Edges, np.ndarray]:
    """As few edges as connect the rows of a cell that are alike, and each row's similarity to its nearest other."""
    vectors = block.vectors.astype(np.float64)
    lengths = np.maximum(np.sqrt((vectors * vectors).sum(axis=1)), 1.0)
    nearest = np.full(len(vectors), -1.0)
    tree: Edges = np.empty((0, 2), dtype=np.uint64)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        part = slice(start, min(start + _ROWS_AT_ONCE, len(vectors)))
        cosine = (vectors[part] @ vectors.T) / (lengths[part, None] * lengths)
        own = np.arange(part.start, part.stop)
        cosine[own - start, own] = -1.0
        nearest[part] = cosine.max(axis=1)
        left, right = np.nonzero(cosine >= threshold)
        found = np.stack([block.rows[right], block.rows[left + start]], axis=1)
        tree = forest(np.concatenate([tree, found]))
    return tree, nearest


def _compare(pieces: list[tuple[np.ndarray, Embedded]], threshold: float) -> _Found:
    edges: Edges = np.empty((0, 2), dtype=np.uint64)
    sizes: dict[int, int] = {}
    num_alike = num_compared = 0
    total = 0.0
    if pieces:
        cells = np.concatenate([cells for cells, _ in pieces])
        rows = np.concatenate([item.rows for _, item in pieces])
        vectors = np.concatenate([item.vectors for _, item in pieces])
        order = np.lexsort((rows, cells))
        cells, rows, vectors = cells[order], rows[order], vectors[order]
        for cell in np.unique(cells).tolist():
            own = slice(*np.searchsorted(cells, [cell, cell + 1]))
            sizes[cell] = len(rows[own])
            if sizes[cell] > 1:
                found, nearest = alike_pairs(Embedded(rows[own], vectors[own]), threshold)
                edges = np.concatenate([edges, found])
                num_alike += int(np.count_nonzero(nearest >= threshold))
                total, num_compared = total + float(np.rint(nearest * SCALE).sum()) / SCALE, num_compared + sizes[cell]
    return _Found(edges, sizes, num_alike, total, num_compared)


def _without_edges(found: _Found) -> _Found:
    return _Found(found.edges[:0], found.sizes, found.num_alike, found.nearest, found.num_compared)


def _facts(found: Sequence[_Found], num_cells: int) -> SemanticFacts:
    sizes = np.array([size for item in found for _, size in sorted(item.sizes.items())], dtype=np.float64)
    shares = np.sort(sizes) / sizes.sum()
    num_compared = sum(item.num_compared for item in found)
    nearest = sum(item.nearest for item in found) / num_compared if num_compared else None
    return {
        "num_records": int(sizes.sum()),
        "num_alike": sum(item.num_alike for item in found),
        "num_cells": num_cells,
        "effective_num_cells": round(float(np.exp(-(shares * np.log(shares)).sum())), 2),
        "mean_distance_to_nearest": None if nearest is None else round(1.0 - nearest, 4),
    }


def _sample(block: Embedded, rate: float) -> Embedded:
    drawn = mix64(block.rows ^ _SALT).astype(np.float64) / 2.0**64 < rate
    return Embedded(block.rows[drawn], block.vectors[drawn])


def _together(blocks: Sequence[Embedded]) -> Embedded:
    """Blocks as one, in order of the rows."""
    filled = [block for block in blocks if len(block.rows)]
    if not filled:
        return blocks[0] if blocks else Embedded(np.empty(0, dtype=np.uint64), np.empty((0, 1), dtype=np.int16))
    rows, vectors = np.concatenate([item.rows for item in filled]), np.concatenate([item.vectors for item in filled])
    order = np.argsort(rows)
    return Embedded(rows[order], vectors[order])
