"""A prepared dataset put on storage: data files, report, manifest, and `_SUCCESS` last."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftlib.config.prepare import PrepareConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.storage import (
    atomic_dir,
    exists,
    filesystem,
    is_uri,
    join,
    local_path,
    make_private_dir,
    read_bytes,
    write_text,
)
from ftlib.data.dedup import EXACT, NEAR, REFERENCE
from ftlib.data.facts import length_facts, pii_facts, split_facts, stage_facts
from ftlib.data.flow import Outcome
from ftlib.data.prepared import KIND, SUCCESS, UNFINISHED
from ftlib.data.redact import FAILED, NO_NER
from ftlib.data.report import build_report, write_report
from ftlib.data.report_facts import Facts
from ftlib.data.residual import exceeds
from ftlib.data.schema import SPLITS
from ftlib.data.write import Layout, write_files
from ftlib.registry.manifest import MANIFEST, build_manifest, write_manifest
from ftlib.text.minhash import PERMUTATION_SEED, choose_bands, expected_recall

logger = get_logger(__name__)

REPORT_FILES = ("report.json", "report.html")


def write_dataset(
    config: PrepareConfig,
    outcome: Outcome,
    *,
    work: str,
    inputs: list[dict[str, Any]],
    references: dict[str, Any],
    made_by: dict[str, str],
    started: float,
    scratch: str | None = None,
    resolved: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write everything; returns the manifest. The folder appears whole or not at all.

    Args:
        config: the job's.
        outcome: what is to be written.
        work: key of the work.
        inputs: fingerprints of all inputs.
        references: fingerprints of what was compared with or is to be mixed in, by configuration key.
        made_by: `ner_model`, and `keyed_by`: which key the hashes were made with (`text.keyed.key_fingerprint`).
        started: `time.time()` at the start.
        scratch: of `output_folder`.
        resolved: the configuration as the manifest shows it; default: as it is.
    """
    import ray

    path = config.output.path
    with output_folder(path, scratch, success=not exceeds(outcome.residual, config.pii)) as folder:
        layout = Layout.of(outcome.counts, config.output.num_files, config.output.rows_per_file)
        written = write_files(folder, outcome.processed, outcome.decided, outcome.assignment, layout)
        files = {name: digest for name, digest, _ in ray.get(written)}
        missing = [name for name in files if not exists(join(folder, name))]
        if missing:
            raise UserError(
                f"output.path={path}: {len(missing)} files were written on other nodes and are not seen here; "
                "name a folder that all nodes share, or a URI"
            )
        facts = make_facts(config, outcome, made_by["ner_model"])
        write_report(folder, build_report(facts))
        files |= {name: _sha256(join(folder, name)) for name in REPORT_FILES}
        manifest = build_manifest(
            KIND,
            work,
            config.result_keys,
            inputs=inputs,
            counts=_counts(outcome),
            files=dict(sorted(files.items())),
            started=started,
            stages=facts["stages"],
            ner_model=made_by["ner_model"],
            keyed_by=made_by["keyed_by"],
            dedup=_dedup_scheme(config),
            references=references,
            mix={"train": outcome.mix, "replay": config.mix.replay and {"fraction": config.mix.replay.fraction}},
        )
        # Paths and parallelism change no byte of the result, so they stand where runs may differ.
        manifest["timing"]["config"] = config.resolved() if resolved is None else resolved
        write_manifest(folder, manifest)
    counts = manifest["counts"]
    logger.info(
        "%d rows: %d kept (%s), %d dropped, %d quarantined",
        counts["num_in"],
        counts["num_out"],
        ", ".join(f"{name} {n}" for name, n in counts["splits"].items()),
        counts["num_dropped"],
        counts["num_quarantined"],
    )
    return manifest


@contextmanager
def output_folder(path: str, scratch: str | None = None, *, success: bool = True) -> Iterator[str]:
    """A folder to write into, with `_SUCCESS` put last where `success`.

    Locally it is a temporary one that is renamed (one in the folder `scratch`, where it is given, so that the next
    attempt clears it away after a kill); a URI's prefix is written to itself, cleared of an older dataset.
    """
    if not is_uri(path):
        with _replacing(path, scratch) if scratch else atomic_dir(path) as folder:
            yield str(folder)
            if success:
                write_text(join(str(folder), SUCCESS), "")
        return
    fs, inner = filesystem(path)
    # Readers look for these two: without them there is no dataset until the new one is whole.
    for name in (SUCCESS, MANIFEST):
        if exists(join(path, name)):
            fs.rm_file(f"{inner.rstrip('/')}/{name}")
    if fs.exists(inner):
        fs.rm(inner, recursive=True)
    for split in SPLITS:
        # Nothing on an object store; file systems behind a URI need their folders.
        fs.makedirs(f"{inner.rstrip('/')}/{split}", exist_ok=True)
    # A job that is killed from here on leaves files that the next one may replace.
    write_text(join(path, UNFINISHED), "")
    try:
        yield path
        fs.rm_file(f"{inner.rstrip('/')}/{UNFINISHED}")
        if success:
            write_text(join(path, SUCCESS), "")
    except BaseException:
        if fs.exists(inner):
            fs.rm(inner, recursive=True)
        raise


@contextmanager
def _replacing(path: str, scratch: str) -> Iterator[Path]:
    """A folder in `scratch` that takes the place of `path` when the block ends."""
    target = local_path(path)
    new, old = (local_path(join(scratch, name)) for name in ("output", "replaced"))
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    make_private_dir(new)
    yield new
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)


def make_facts(config: PrepareConfig, outcome: Outcome, ner: str) -> Facts:
    """The report's facts; see `ftlib.data.report`."""
    counts = outcome.counts
    labels = sorted({label for _, label in counts.labels})
    return {
        "inputs": [
            {"source": source, "shape": outcome.shapes[source], "num_rows": n}
            for source, n in outcome.num_rows_by_source.items()
        ],
        "settings": _settings(config, ner),
        "stages": stage_facts(counts, outcome.num_rows, (FAILED, NO_NER)),
        "drops": [
            {"stage": stage, "reason": reason, "num_rows": n} for (stage, reason), n in sorted(counts.dropped.items())
        ],
        "quarantine": [{"error": error, "num_rows": n} for error, n in sorted(counts.quarantined.items())],
        "pii": pii_facts(counts),
        "num_records_scanned": counts.scanned["records"] if config.pii.profile != "none" else 0,
        "num_records_with_pii": counts.scanned["with_pii"],
        "no_ner": [{"language": language, "num_records": n} for language, n in sorted(counts.no_ner.items())],
        "duplicates": {
            "num_exact": sum(n for (_, reason), n in counts.dropped.items() if reason == EXACT),
            "num_near": sum(n for (_, reason), n in counts.dropped.items() if reason == NEAR),
            "cluster_sizes": {str(size): n for size, n in sorted(outcome.cluster_sizes.items())},
            "num_in_reference": sum(n for (_, reason), n in counts.dropped.items() if reason == REFERENCE),
            "expected_recall": expected_recall(config.dedup.threshold, config.dedup.num_permutations),
        },
        "labels": [
            {"label": label, "num_rows": sum(n for (_, name), n in counts.labels.items() if name == label)}
            for label in labels
        ],
        "label_conflicts": [
            {"labels": list(key) or ["(answers differ)"], "num_groups": outcome.conflict_groups[key], "num_rows": n}
            for key, n in sorted(outcome.conflicts.items())
        ],
        "lengths": length_facts(counts),
        "splits": split_facts(counts),
        "residual": outcome.residual,
        "left_out": outcome.left_out,
        "broken": outcome.broken,
        **_mix_facts(config, outcome),  # type: ignore[typeddict-item]
        "warnings": outcome.warnings,
        "losses": outcome.losses,
        "common_text": outcome.common_text,
        "semantic": outcome.semantic,
    }


def _mix_facts(config: PrepareConfig, outcome: Outcome) -> dict[str, Any]:
    """`mix` and `replay` of the report, where configured."""
    replay = config.mix.replay
    name = replay.path.rstrip("/").rsplit("/", 1)[-1] if replay else ""
    found: dict[str, Any] = {"mix": outcome.mix} if outcome.mix else {}
    return found | ({"replay": {"source": name, "fraction": replay.fraction}} if replay else {})


def _settings(config: PrepareConfig, ner: str) -> dict[str, str | int | float | bool | None]:
    return {
        "pii_profile": config.pii.profile,
        "pii_replacement": config.pii.replacement,
        "pii_language": config.pii.language,
        "ner_model": ner,
        "ner_labels_left_out": _labels_left_out(config),
        "dedup_enabled": config.dedup.enabled,
        "dedup_threshold": config.dedup.threshold,
        "dedup_ngram": config.dedup.ngram,
        "dedup_preset": config.dedup.preset,
        "dedup_policy": config.dedup.policy,
        "dedup_action": config.dedup.action,
        "dedup_drop_above": config.dedup.drop_above,
        "filter_enabled": config.filter.enabled,
        "label_conflicts": config.filter.label_conflicts,
        "val_fraction": config.split.val_fraction,
        "test_fraction": config.split.test_fraction,
        "stratify": config.split.stratify,
        "split_by_time": config.split.by_time,
        "split_group_column": config.split.group_column,
        "max_age_days": config.filter.max_age_days,
        "mix_balance": config.mix.balance,
        "mix_min_genuine": config.mix.min_genuine,
        "seed": config.seed,
    }


def _labels_left_out(config: PrepareConfig) -> str:
    """Labels of NER models that mean nothing here, so that what they mark is not redacted."""
    from ftlib.text.pii.engines import unmapped_labels
    from ftlib.text.pii.profiles import needs_ner, profile_entities

    if not needs_ner(config.pii, profile_entities(config.pii)):
        return ""
    return ", ".join(label for labels in unmapped_labels(config.pii).values() for label in labels)


def _dedup_scheme(config: PrepareConfig) -> dict[str, Any]:
    bands, rows = choose_bands(config.dedup.threshold, config.dedup.num_permutations)
    return {"scheme": config.dedup.scheme, "permutation_seed": PERMUTATION_SEED, "bands": bands, "rows": rows}


def _counts(outcome: Outcome) -> dict[str, Any]:
    """in = out + dropped + quarantined, checked."""
    counts = outcome.counts
    total = counts.num_kept + counts.num_dropped + counts.num_quarantined
    if total != outcome.num_rows:
        raise RuntimeError(f"the row account does not add up: {outcome.num_rows} in, {total} out")
    return {
        "num_in": outcome.num_rows,
        "num_out": counts.num_kept,
        "num_dropped": counts.num_dropped,
        "num_quarantined": counts.num_quarantined,
        "splits": {facts["split"]: facts["num_rows"] for facts in split_facts(counts)},
        "dropped": {f"{stage}/{reason}": n for (stage, reason), n in sorted(counts.dropped.items())},
        "quarantined": dict(sorted(counts.quarantined.items())),
    }


def _sha256(path: str) -> str:
    import hashlib

    return hashlib.sha256(read_bytes(path)).hexdigest()
