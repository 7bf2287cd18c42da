"""A prepared split to a packed one: tokenised in Ray Data before training starts, never inside its workers.

One task tokenises one Parquet file of the prepared split and writes its tokens and loss weights to the shared folder,
so only lengths and counters come back to the driver. Packing then writes index files. The folder depends on the
prepared files, the tokenizer and the settings alone; it stands under a key of them and is shared by all runs with that
key.

Records longer than the limit: a conversation loses tokens from the left of its prompt (then from the end of its last
answer); plain text is cut into consecutive pieces. Records that supervise no token are left out and counted.
"""

import hashlib
import heapq
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import fingerprint
from ftlib.core.logging import get_logger
from ftlib.core.storage import atomic_dir, filesystem, write_json
from ftlib.data.pack import INFO, write_file, write_index
from ftlib.data.schema import ID, MESSAGES, TEXT, WEIGHT
from ftlib.data.unsupervised import Unsupervised, why_unsupervised
from ftlib.models.chat import encode_example, encode_text

logger = get_logger(__name__)

FORMAT = 2
"""Version of the folder's layout and of the algorithm: part of the key."""
INPUTS = "inputs.json"
"""What the tokens were made from, beside them."""


@dataclass(frozen=True)
class TokenizeSettings:
    """How a split becomes sequences."""

    tokenizer_folder: str
    max_seq_len: int
    packing: bool = True
    max_unsupervised: float = 0.01
    """The share of rows without a learnt token above which `tokenize_split` raises."""
    max_rows: int | None = None
    """Only this many rows, those with the smallest hash of id."""


@dataclass
class Sequences:
    """Sequences of one file with their counters."""

    tokens: list[list[int]] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    num_rows: int = 0
    num_truncated: int = 0
    unsupervised: Unsupervised = field(default_factory=Unsupervised)


def tokenize_split(files: list[str], inputs: Any, cache: Path, settings: TokenizeSettings) -> Path:
    """The packed folder of a prepared split, made on first use.

    Args:
        files: Parquet files of the split (paths or URIs), in order.
        inputs: what identifies its content (hashes of its files).
        cache: folder of packed splits; every training worker must see it.
        settings: limits and tokenizer; the tokenizer counts by the hash of its files.

    Raises:
        UserError: more rows than allowed supervise no token, or nothing is left to learn from. Reasons are shown with
            row ids, never their text.
    """
    folder = cache / packed_key(inputs, settings)
    if not (folder / INFO).exists():
        limit = hash_limit(files, settings.max_rows)
        with atomic_dir(str(folder)) as target:
            info = _build(files, target, settings, limit)
            # Erasure finds the tokens of a dataset by it.
            write_json(str(target / INPUTS), inputs)
        logger.info("tokenised: %s", ", ".join(f"{name} {value}" for name, value in info.items()))
    return folder


def packed_key(inputs: Any, settings: TokenizeSettings) -> str:
    """Key of a packed split."""
    tokenizer = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("tokenizer*", "*.jinja", "special_tokens_map.json")
        for path in sorted(Path(settings.tokenizer_folder).glob(pattern))
    }
    limits = [settings.max_seq_len, settings.packing, settings.max_unsupervised, settings.max_rows]
    return fingerprint({"format": FORMAT, "inputs": inputs, "tokenizer": tokenizer, "limits": limits})


def hash_limit(files: list[str], max_rows: int | None) -> int | None:
    """The largest hash of id among the `max_rows` smallest; None when every row is wanted."""
    if max_rows is None:
        return None
    hashes = (id_hash(row[ID]) for file in files for row in _read(file, [ID]))
    smallest = heapq.nsmallest(max_rows, hashes)
    return smallest[-1] if smallest else None


def id_hash(record_id: str) -> int:
    """64 bits of SHA-256 of a record's id."""
    return int.from_bytes(hashlib.sha256(record_id.encode()).digest()[:8], "big")


def tokenize_rows(rows: list[dict[str, Any]], tokenizer: Any, max_seq_len: int) -> Sequences:
    """Tokenise canonical records; each sequence has at least one learnt token after its first."""
    result = Sequences(num_rows=len(rows))
    for row in rows:
        weight = 1.0 if row.get(WEIGHT) is None else float(row[WEIGHT])
        pieces, truncated = _pieces(row, tokenizer, max_seq_len)
        pieces = [(ids, mask) for ids, mask in pieces if any(mask[1:]) and weight > 0]
        result.num_truncated += truncated
        if not pieces:
            result.unsupervised.add(row[ID], why_unsupervised(row, weight, tokenizer))
        for ids, mask in pieces:
            result.tokens.append(ids)
            result.weights.append([weight if flag else 0.0 for flag in mask])
    return result


def _pieces(row: dict[str, Any], tokenizer: Any, limit: int) -> tuple[list[tuple[list[int], list[bool]]], bool]:
    if not row.get(MESSAGES):
        ids, mask = encode_text(tokenizer, row.get(TEXT) or "")
        # Pieces share a token, so that the first of each is learnt in the piece before.
        starts = range(0, max(1, len(ids) - 1), limit - 1)
        return [(ids[start : start + limit], mask[start : start + limit]) for start in starts], False
    try:
        ids, mask = encode_example(tokenizer, row[MESSAGES])
    except UserError:  # the template refuses this conversation: counted with those that teach nothing
        return [], False
    return [truncate(ids, mask, limit)], len(ids) > limit


def truncate(ids: list[int], mask: list[bool], limit: int) -> tuple[list[int], list[bool]]:
    """Cut a sequence to `limit` tokens: from the left up to one token before the last answer, then from the right."""
    excess = len(ids) - limit
    if excess <= 0 or not any(mask):
        return ids[:limit], mask[:limit]
    end = len(mask) - 1 - mask[::-1].index(True)
    start = end
    while start > 0 and mask[start - 1]:
        start -= 1
    left = min(excess, max(start - 1, 0))
    return ids[left : left + limit], mask[left : left + limit]


def _build(files: list[str], target: Path, settings: TokenizeSettings, limit: int | None) -> dict[str, int]:
    import ray.data

    if not files:
        raise UserError("the split has no Parquet files; prepare the dataset again")
    items = [{"number": number, "path": path} for number, path in enumerate(files)]
    arguments = {"target": str(target), "settings": settings, "limit": limit}
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(_tokenize_file, fn_kwargs=arguments)
    results = sorted(dataset.take_all(), key=lambda result: result["number"])
    num_rows = sum(result["num_rows"] for result in results)
    unsupervised = Unsupervised.merged(result["unsupervised"] for result in results)
    unsupervised.check(num_rows, settings.max_unsupervised)
    sequences = np.concatenate([np.load(target / f"part-{item['number']:05d}.npy") for item in items])
    if not len(sequences):
        raise UserError("the split has no row to learn from")
    for item in items:
        (target / f"part-{item['number']:05d}.npy").unlink()
    counts = {
        "num_rows": num_rows,
        "num_unsupervised": unsupervised.num_rows,
        "num_truncated": sum(result["num_truncated"] for result in results),
    }
    return write_index(target, sequences, settings.max_seq_len, packing=settings.packing, counts=counts)


def _tokenize_file(item: dict[str, Any], target: str, settings: TokenizeSettings, limit: int | None) -> dict[str, Any]:
    """Ray Data task: one Parquet file to one file of tokens and weights; returns counters."""
    rows = _read(item["path"], [ID, MESSAGES, TEXT, WEIGHT])
    if limit is not None:
        rows = [row for row in rows if id_hash(row[ID]) <= limit]
    result = tokenize_rows(rows, _tokenizer(settings.tokenizer_folder), settings.max_seq_len)
    number = int(item["number"])
    sequences: npt.NDArray[np.int64] = write_file(Path(target), number, result.tokens, result.weights)
    np.save(Path(target) / f"part-{number:05d}.npy", sequences)
    return {
        "number": number,
        "num_rows": result.num_rows,
        "num_truncated": result.num_truncated,
        "unsupervised": result.unsupervised.as_json(),
    }


def _read(path: str, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    fs, inner = filesystem(path)
    rows: list[dict[str, Any]] = pq.read_table(inner, filesystem=fs, columns=columns).to_pylist()
    return rows


@lru_cache(maxsize=1)
def _tokenizer(folder: str) -> Any:
    from ftlib.models.load import load_tokenizer

    return load_tokenizer(folder)
