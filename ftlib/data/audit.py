"""The driver of `jobs.audit`: the stages of a preparation, whose result is a report instead of a dataset.

In: an `AuditConfig`. Out: `report.json`, `report.html` and `manifest.json` at `output.path`. Records are read
three times: for hashes and for redaction, as `jobs.prepare` does ("clean" is what it would keep), and for their
formats. No record's text leaves the workers; examples are masks.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ftlib.config.audit import AuditConfig
from ftlib.config.prepare import InputConfig, PrepareConfig
from ftlib.core.errors import GateError, UserError
from ftlib.core.logging import get_logger
from ftlib.core.secrets import redaction_key
from ftlib.core.storage import exists, filesystem, join, read_bytes, read_json
from ftlib.data import schema as s
from ftlib.data.audit_report import AuditFacts, TokenFacts, build_audit, inspected_facts, token_facts
from ftlib.data.blocks import collect
from ftlib.data.dataset import REPORT_FILES, make_facts, output_folder
from ftlib.data.fertility import TokenCounts, count_tokens, encoder
from ftlib.data.flow import Flow, Outcome
from ftlib.data.inputs import all_inputs
from ftlib.data.inspection import Inspected, inspect_table
from ftlib.data.passes import configure_ray_data, rows_per_block
from ftlib.data.plan import plan_reads
from ftlib.data.prepare import check_pii
from ftlib.data.prepared import open_prepared
from ftlib.data.read import ReadSettings, group_tasks, read_group
from ftlib.data.report import write_report
from ftlib.data.residual import choose_sample
from ftlib.data.row_keys import row_keys
from ftlib.data.rows import ReadTask
from ftlib.data.sign import spoken
from ftlib.data.source_names import SourceNames
from ftlib.data.stored import work_folder
from ftlib.registry.manifest import MANIFEST, build_manifest, finished, work_key, write_manifest
from ftlib.runtime.cluster import connect
from ftlib.runtime.exchange import map_blocks
from ftlib.text.keyed import KeyedHash

logger = get_logger(__name__)

KIND = "audit"
Repeated = Counter[tuple[str, str, str]]


def audit(config: AuditConfig) -> dict[str, Any]:
    """Audit the records; returns `manifest`, `path`, `quality`, `findings` (number by severity) and `reused`.

    Raises UserError for bad input, GateError when the quality score is below `audit.min_quality`.
    """
    started = time.time()
    key, prepare = redaction_key(), config.as_prepare(_records(config))
    ner = check_pii(config.pii)
    files = SourceNames(config.pii, key).files(all_inputs(prepare.input))
    described = [file.describe() for file in files]
    work = work_key(
        KIND, config.result_keys, {"files": described, "key": KeyedHash(key, "fingerprint").hex(b""), "ner": ner}
    )
    _check_output(config.output.path)
    manifest = finished(config.output.path, work)
    if manifest is not None:
        logger.info("%s is the report of these very records already: nothing to do", config.output.path)
        return _judge(config, manifest, reused=True)
    tasks = plan_reads(files, prepare.input, key)
    with connect(config.cluster), work_folder(config.output.path, work) as folder:
        configure_ray_data()
        report = _examine(config, prepare, key, tasks, folder=folder, ner=ner)
    with output_folder(config.output.path, success=False) as folder:
        write_report(folder, report)
        manifest = build_manifest(
            KIND,
            work,
            config.result_keys,
            inputs=described,
            counts=report["summary"],
            files={name: _sha256(join(folder, name)) for name in REPORT_FILES},
            started=started,
            ner_model=ner,
            findings=dict(Counter(finding["severity"] for finding in report["findings"])),
        )
        write_manifest(folder, manifest)
    return _judge(config, manifest, reused=False)


def _records(config: AuditConfig) -> InputConfig:
    """What is read: the input as it is, or the Parquet files of a prepared dataset."""
    if config.input is not None:
        return config.input
    assert config.data is not None
    dataset = open_prepared(config.data.path)
    paths = [path for split in s.SPLITS if dataset.num_rows(split) for path in dataset.files(split)]
    if not paths:
        raise UserError(f"data.path={config.data.path}: the dataset has no rows")
    return InputConfig(paths=paths, shape="canonical")


def _examine(
    config: AuditConfig, prepare: PrepareConfig, key: bytes, tasks: Sequence[ReadTask], *, folder: str, ner: str
) -> dict[str, Any]:
    """All facts of the records, as a report."""
    outcome = Flow(prepare, key, tasks, folder).run()
    counts = _inspect(config, prepare, key, tasks)
    repeated, pairs = _repeated(outcome, tasks, config)
    facts: dict[str, Any] = inspected_facts(counts, config.audit.num_examples)
    if pairs:
        facts["examples"]["duplicates"] = pairs
    audited: AuditFacts = {
        **facts,  # type: ignore[typeddict-item]
        "tokens": _count_tokens(config, outcome),
        "contamination": [
            {"split": split, "keeper_split": keeper, "reason": reason, "num_rows": n}
            for (split, keeper, reason), n in sorted(repeated.items())
        ],
        "min_quality": config.audit.min_quality,
        "prepared": config.data is not None,
    }
    return build_audit(make_facts(prepare, outcome, ner), audited, config.pii.language)


def _inspect(config: AuditConfig, prepare: PrepareConfig, key: bytes, tasks: Sequence[ReadTask]) -> Inspected:
    """Formats, dates, languages and annotators of the records as they were read."""
    import ray

    settings = ReadSettings(prepare.input, key, rows_per_block(prepare.execution, tasks))
    annotations = config.audit.annotations

    def run(group: list[ReadTask]) -> Inspected:
        return sum((inspect_table(table, annotations) for table in read_group(group, settings)), Inspected())

    remote = ray.remote(run)
    return sum(
        collect([remote.remote(group) for group in group_tasks(tasks, settings.rows_per_block)], "inspecting"),
        Inspected(),
    )


def _repeated(outcome: Outcome, tasks: Sequence[ReadTask], config: AuditConfig) -> tuple[Repeated, list[str]]:
    """Duplicates of a record in another split, and examples of duplicates.

    (later split, earlier split, reason) → rows: which of the two deduplication would keep says nothing here.
    """
    splits = {task.rank: task.path.rstrip("/").rsplit("/", 2)[-2] for task in tasks} if config.data else {}
    wanted = config.audit.num_examples
    order = {split: number for number, split in enumerate(s.SPLITS)}

    def run(tables: list[pa.Table]) -> tuple[Repeated, list[tuple[int, str]]]:
        table = pa.concat_tables(tables)
        found: Repeated = Counter()
        examples = []
        for row in table.select([s.ROW, s.KEEPER_ROW, s.ID, s.KEEPER_ID, s.REASON, s.SCORE]).to_pylist():
            ranks = row[s.ROW] >> s.ROW_POSITION_BITS, row[s.KEEPER_ROW] >> s.ROW_POSITION_BITS
            sides = sorted({splits.get(rank, "") for rank in ranks}, key=lambda split: order.get(split, -1))
            if len(sides) > 1:
                found[sides[1], sides[0], row[s.REASON].replace("_", " ")] += 1
            score = "" if row[s.SCORE] is None else f", similarity {row[s.SCORE]:.2f}"
            examples.append((row[s.ROW], f"{row[s.ID]} repeats {row[s.KEEPER_ID]}{score}"))
        return found, sorted(examples)[:wanted]

    parts = collect(map_blocks(outcome.decided, run))
    found = sum((part[0] for part in parts), Counter[tuple[str, str, str]]())
    examples = sorted(example for part in parts for example in part[1])[:wanted]
    return found, [text for _, text in examples]


def _count_tokens(config: AuditConfig, outcome: Outcome) -> TokenFacts | None:
    """Lengths and fertility of a sample of the clean, redacted records."""
    import ray

    if config.audit.tokenizer is None:
        return None
    from ftlib.models.load import load_tokenizer
    from ftlib.models.source import resolve_source

    folder = resolve_source(config.audit.tokenizer)
    sample = choose_sample(ray.get(outcome.assignment).placed, config.audit.token_sample)

    def run(tables: list[pa.Table]) -> TokenCounts:
        table = pa.concat_tables(tables)
        chosen = table.filter(pa.array(sample.contains(row_keys(table))))
        if not chosen.num_rows:
            return TokenCounts()
        records = [spoken(record) for record in chosen.select([s.MESSAGES, s.TEXT, s.REJECTED]).to_pylist()]
        return count_tokens(records, encoder(load_tokenizer(folder)))

    counts = sum(collect(map_blocks(outcome.processed, run), "counting tokens"), TokenCounts())
    tokenizer = encoder(load_tokenizer(folder))
    return token_facts(counts, tokenizer, config.audit.tokenizer, config.audit.max_seq_len)


def _judge(config: AuditConfig, manifest: dict[str, Any], reused: bool) -> dict[str, Any]:
    path, quality, wanted = config.output.path, manifest["counts"]["quality_score"], config.audit.min_quality
    findings = manifest["findings"]
    result = {
        "manifest": join(path, MANIFEST), "path": path, "quality": quality, "findings": findings, "reused": reused,
    }  # fmt: skip
    if wanted is not None and quality < wanted:
        raise GateError(
            f"{quality:.1%} of the records are clean, audit.min_quality wants {wanted:.1%}: see "
            f"{join(path, 'report.html')}",
            result,
        )
    return result


def _check_output(path: str) -> None:
    """Refuse to replace a folder that holds something else than a report of this job."""
    fs, inner = filesystem(path)
    if not fs.exists(inner) or (fs.isdir(inner) and not fs.ls(inner)):
        return
    manifest = join(path, MANIFEST)
    if not exists(manifest) or read_json(manifest).get("kind") != KIND:
        raise UserError(f"output.path={path} holds other files, which would be replaced; name a new folder")


def _sha256(path: str) -> str:
    import hashlib

    return hashlib.sha256(read_bytes(path)).hexdigest()
