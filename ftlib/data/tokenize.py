"""A prepared split to a packed one: tokenised in Ray Data before training starts, never inside its workers.

One task tokenises one Parquet file of the prepared split and writes its tokens and loss weights to the shared folder,
so only lengths and counters come back to the driver. Packing then writes index files. The folder depends on the
prepared files, the tokenizer and the settings alone; it stands under a key of them and is shared by all runs with that
key.

Records longer than the limit: by default a conversation loses tokens from the left of its prompt (then from the end of
its last answer); plain text is cut into consecutive pieces. Records that supervise no token are left out and counted.
Weights of records scale their loss, or say how often an epoch shows them.
"""

import hashlib
import heapq
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import fingerprint
from ftlib.core.logging import get_logger
from ftlib.core.storage import atomic_dir, filesystem, write_json
from ftlib.data.compared import last_answer, preference_rows
from ftlib.data.pack import INFO, UNITS, write_file, write_index
from ftlib.data.records import is_bad_answer_alone, read_records_file, tool_definitions, turns
from ftlib.data.schema import ID, LABEL, MESSAGES, REJECTED, SUBJECT, TEXT, TOOLS, WEIGHT
from ftlib.data.sequences import LOST, Sequences, TokenizeSettings, id_hash, num_copies, record_weight
from ftlib.data.unsupervised import Unsupervised, why_unsupervised
from ftlib.models.chat import encode_text, encode_turns

__all__ = ["LOST", "Sequences", "TokenizeSettings", "id_hash", "last_answer", "num_copies", "preference_rows"]

logger = get_logger(__name__)

FORMAT = 4
"""Version of the folder's layout and of the algorithm: part of the key."""
INPUTS = "inputs.json"
"""What the tokens were made from, beside them."""
_COUNTERS = ("num_rows", "num_truncated", "num_too_long", "num_supervised")
COLUMNS = [ID, MESSAGES, TEXT, WEIGHT, REJECTED, LABEL, SUBJECT, TOOLS]
"""What is read of a prepared split."""


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
        warn_of_losses(info)
    return folder


def warn_of_losses(counts: Mapping[str, Any]) -> None:
    """Say on the log what the chat template lost, where it lost anything."""
    words = ("turns are not learnt, since as history the template renders them otherwise",
             "turns lose their reasoning", "rows lose the definitions of their tools")  # fmt: skip
    found = [f"{counts[name]} {text}" for name, text in zip(LOST, words, strict=True) if counts.get(name)]
    if found:
        logger.warning("the model's chat template does not render all of the records: %s", "; ".join(found))


def packed_key(inputs: Any, settings: TokenizeSettings) -> str:
    """Key of a packed split."""
    tokenizer = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in ("tokenizer*", "*.jinja", "special_tokens_map.json")
        for path in sorted(Path(settings.tokenizer_folder).glob(pattern))
    }
    options = {name: value for name, value in asdict(settings).items() if name != "tokenizer_folder"}
    return fingerprint({"format": FORMAT, "inputs": inputs, "tokenizer": tokenizer, "options": options})


def hash_limit(files: list[str], max_rows: int | None) -> int | None:
    """The largest hash of id among the `max_rows` smallest; None when every row is wanted."""
    if max_rows is None:
        return None
    hashes = (id_hash(row[ID]) for file in files for row in _read(file, [ID]))
    smallest = heapq.nsmallest(max_rows, hashes)
    return smallest[-1] if smallest else None


def tokenize_rows(rows: list[dict[str, Any]], tokenizer: Any, settings: TokenizeSettings) -> Sequences:
    """Tokenise canonical records; each sequence has at least one learnt token after its first."""
    if settings.objective != "sft":
        return preference_rows(rows, tokenizer, settings)
    result, factors = Sequences(num_rows=len(rows)), dict(settings.class_weights)
    for row in rows:
        weight = record_weight(row, factors)
        pieces, truncated = _pieces(row, tokenizer, settings, result)
        pieces = [(ids, mask) for ids, mask in pieces if any(mask[1:]) and weight > 0]
        result.num_truncated += truncated
        if truncated and not pieces and settings.truncation == "drop":
            result.num_too_long += 1
            continue
        if not pieces:
            result.unsupervised.add(row[ID], why_unsupervised(row, weight, tokenizer))
        loss, copies = (weight, 1) if settings.weighting == "loss" else (1.0, num_copies(row[ID], weight))
        unit = id_hash(row[ID]), id_hash(row[SUBJECT]) if row.get(SUBJECT) else 0
        for ids, mask in pieces:
            result.add(row[ID], ids, [loss if flag else 0.0 for flag in mask], copies, unit)
    return result


def _pieces(
    row: dict[str, Any], tokenizer: Any, settings: TokenizeSettings, result: Sequences
) -> tuple[list[tuple[list[int], list[bool]]], bool]:
    limit = settings.max_seq_len
    if not row.get(MESSAGES):
        ids, mask = encode_text(tokenizer, row.get(TEXT) or "")
        # Pieces share a token, so that the first of each is learnt in the piece before.
        starts = range(0, max(1, len(ids) - 1), limit - 1)
        return [(ids[start : start + limit], mask[start : start + limit]) for start in starts], False
    if is_bad_answer_alone(row):
        return [], False
    try:
        encoded = encode_turns(tokenizer, turns(row), tool_definitions(row))
    except UserError:  # the template refuses this conversation: counted with those that teach nothing
        return [], False
    ids, mask = encoded.ids, encoded.supervised
    if any(mask[1:]):
        result.count_lost(encoded)
    if len(ids) <= limit:
        return [(ids, mask)], False
    cut = {"left": [truncate(ids, mask, limit)], "right": [(ids[:limit], mask[:limit])], "drop": []}
    return cut[settings.truncation], True


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
    parts = []
    for item in items:
        path = target / f"part-{item['number']:05d}.npz"
        with np.load(path) as part:
            parts.append(dict(part))
        path.unlink()
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(whole["sequences"]) or not whole["copies"].any():
        raise UserError("the split has no row to learn from")
    counts = {name: sum(result[name] for result in results) for name in (*_COUNTERS, *LOST)}
    counts["num_unsupervised"] = unsupervised.num_rows
    if settings.units:
        np.save(target / UNITS, whole["units"])
    samples = whole["samples"] if settings.objective != "sft" else None
    return write_index(
        target, whole["sequences"], settings.max_seq_len, packing=settings.packing, counts=counts,
        copies=whole["copies"], samples=samples,
    )  # fmt: skip


def _tokenize_file(item: dict[str, Any], target: str, settings: TokenizeSettings, limit: int | None) -> dict[str, Any]:
    """Ray Data task: one Parquet file to one file of tokens and weights; returns counters."""
    rows = _read(item["path"], COLUMNS)
    if limit is not None:
        rows = [row for row in rows if id_hash(row[ID]) <= limit]
    result = tokenize_rows(rows, _tokenizer(settings.tokenizer_folder), settings)
    number = int(item["number"])
    sequences: npt.NDArray[np.int64] = write_file(Path(target), number, result.tokens, result.weights, result.ids)
    arrays = {
        "sequences": sequences,
        "copies": np.asarray(result.copies, dtype=np.int64),
        "samples": np.asarray(result.samples, dtype=np.float32).reshape(-1, 2),
        "units": np.asarray(result.units, dtype=np.uint64).reshape(-1, 2),
    }
    np.savez(Path(target) / f"part-{number:05d}.npz", **arrays)  # type: ignore[arg-type]
    return {
        "number": number,
        "num_rows": result.num_rows,
        "num_truncated": result.num_truncated,
        "num_too_long": result.num_too_long,
        "num_supervised": sum(weight > 0 for row in result.weights for weight in row),
        "unsupervised": result.unsupervised.as_json(),
        **{name: result.lost[name] for name in LOST},
    }


def _read(path: str, columns: list[str]) -> list[dict[str, Any]]:
    fs, inner = filesystem(path)
    rows: list[dict[str, Any]] = read_records_file(inner, fs, columns).to_pylist()
    return rows


@lru_cache(maxsize=1)
def _tokenizer(folder: str) -> Any:
    from ftlib.models.load import load_tokenizer

    return load_tokenizer(folder)
