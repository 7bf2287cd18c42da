"""The driver of `jobs.prepare`: read → sign → duplicates and conflicts → redact → filter → split → write.

In: a `PrepareConfig`. Out: the dataset of DESIGN §2 at `output.path`. What can be known to be wrong with the input is
known before Ray starts; a second run of the same work returns the first one's result.
"""

import hashlib
import time
from typing import Any

from ftlib.config.prepare import PiiConfig, PrepareConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.secrets import redaction_key
from ftlib.core.storage import exists, filesystem, join, read_bytes, read_json
from ftlib.data.dataset import write_dataset
from ftlib.data.flow import Flow
from ftlib.data.inputs import all_inputs
from ftlib.data.passes import configure_ray_data
from ftlib.data.plan import plan_reads
from ftlib.data.prepared import KIND, SUCCESS, UNFINISHED
from ftlib.data.references import describe_replay, find_references, load_references
from ftlib.data.residual import exceeds, refuse_residual
from ftlib.data.review import read_decisions
from ftlib.data.semantic import check_model
from ftlib.data.source_names import SourceNames
from ftlib.data.stored import work_folder
from ftlib.models.fingerprint import model_fingerprint
from ftlib.registry.manifest import MANIFEST, finished, work_key
from ftlib.runtime.cluster import connect
from ftlib.text.keyed import key_fingerprint

logger = get_logger(__name__)


def prepare(config: PrepareConfig) -> dict[str, Any]:
    """Prepare a dataset; returns `manifest`, `path`, `counts` and `reused`.

    Raises UserError for bad input, before any work where it can be known, and GateError when a second detector still
    finds more than `pii.max_residual` allows.
    """
    started = time.time()
    key = redaction_key()
    ner = check_pii(config.pii)
    names = SourceNames(config.pii, key)
    files = names.files(all_inputs(config.input))
    config = config.model_copy(update={"mix": names.mix(config.mix)})
    described = [file.describe() for file in files]
    answers = []
    if decisions := config.review.decisions:
        answers = read_decisions(decisions)
        content = read_bytes(decisions)
        name, digest = "review.decisions", hashlib.sha256(content).hexdigest()
        described.append({"source": name, "bytes": len(content), "fingerprint": digest})
    others = {name: names.files(found) for name, found in find_references(config).items()}
    beside = {name: [file.describe() for file in found] for name, found in others.items()}
    if config.mix.replay:
        beside["mix.replay.path"] = describe_replay(config.mix.replay)
    if model := config.dedup.semantic.model:
        check_model(model)
        beside["dedup.semantic.model"] = [{"fingerprint": model_fingerprint(model)}]
    keyed_by = key_fingerprint(key)
    work = work_key(KIND, config.result_keys, {"files": described, "key": keyed_by, "ner": ner, **beside})
    check_output(config.output.path)
    manifest = finished(config.output.path, work)
    if manifest and exists(join(config.output.path, SUCCESS)):
        logger.info("%s is this very dataset already: nothing to do", config.output.path)
        return _result(config, manifest, reused=True)
    tasks = plan_reads(files, config.input, key)
    references = load_references(config, others, files, key)
    with connect(config.cluster), work_folder(config.output.path, work) as folder:
        configure_ray_data()
        outcome = Flow(config, key, tasks, folder, answers, references=references).run()
        for file in files:
            if file.query is not None:
                file.query.check_unchanged(file.fingerprint)
        manifest = write_dataset(
            config, outcome, work=work, inputs=described, references=beside,
            made_by={"ner_model": ner, "keyed_by": keyed_by}, started=started, scratch=folder,
            resolved=names.resolved(config),
        )  # fmt: skip
    result = _result(config, manifest, reused=False)
    if outcome.residual is not None and exceeds(outcome.residual, config.pii):
        raise refuse_residual(outcome.residual, config.pii, result)
    return result


def check_pii(config: PiiConfig) -> str:
    """Names and versions of the NER models; raises UserError where entities are unknown or it is not installed."""
    if config.profile == "none":
        logger.warning("pii.profile is none: nothing will be redacted")
        return "none"
    from ftlib.text.pii.engines import described, unmapped_labels
    from ftlib.text.pii.profiles import needs_ner, profile_entities

    if not needs_ner(config, profile_entities(config)):
        return "none"
    for model, labels in unmapped_labels(config).items():
        logger.warning(
            "%s: its labels %s are not known and not redacted; pii.ner_labels says what they mean",
            model, ", ".join(labels),
        )  # fmt: skip
    return described(config)


def check_output(path: str) -> None:
    """Refuse to replace a folder that holds something else than a result of this job."""
    fs, inner = filesystem(path)
    if not fs.exists(inner):
        return
    if not fs.isdir(inner):
        raise UserError(f"output.path={path} is a file; a new folder, or that of an earlier dataset, is needed")
    if not fs.ls(inner):
        return
    if exists(join(path, UNFINISHED)):
        logger.warning("%s holds the files of a job that did not end: they are replaced", path)
        return
    manifest = join(path, MANIFEST)
    found = read_json(manifest) if exists(manifest) else None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise UserError(f"output.path={path} holds other files, which would be replaced; name a new folder")


def _result(config: PrepareConfig, manifest: dict[str, Any], reused: bool) -> dict[str, Any]:
    path = config.output.path
    return {"manifest": join(path, MANIFEST), "path": path, "counts": manifest["counts"], "reused": reused}
