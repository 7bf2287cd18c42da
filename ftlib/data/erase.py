"""The driver of `jobs.erase`: find a person everywhere, write datasets without them, list what must follow, prove it.

Searched are folders (datasets, runs, sweeps, evaluations, packed tokens), a model registry, and the deployments in
`FTLIB_HOME`. Subjects are compared as keyed hashes, so the key must be the one the data was prepared with; datasets
under another key, or of a version of ftlib that kept no lineage, are reported as not searched. Old versions, runs and
deployments stay until somebody acts on the lists (`delete_old` deletes the old datasets and their packed tokens).

The proof, `erasure-KEY/erasure.json` with a manifest, holds hashes, counts, paths and digests, nothing of the person.
The same erasure is found again: nothing is written twice.
"""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftlib.config.erase import EraseConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import fingerprint
from ftlib.core.logging import get_logger
from ftlib.core.secrets import redaction_key
from ftlib.core.storage import exists, filesystem, join, local_path, read_json, state_home, write_text
from ftlib.data.erased import Holding, Person, find_rows, write_version
from ftlib.data.lineage import has_lineage
from ftlib.data.pack import INFO
from ftlib.data.prepared import KIND, SUCCESS, training_key
from ftlib.data.read import SUBJECT_PURPOSE, subject_hash
from ftlib.data.redact import GIVEN_ID
from ftlib.data.tokenize import INPUTS
from ftlib.registry.derived import (
    DEPLOYMENT,
    RUN,
    Origins,
    affected_deployments,
    affected_versions,
    descendants,
    directly_from,
    roll_backs,
)
from ftlib.registry.manifest import MANIFEST, build_manifest, finished, write_manifest
from ftlib.registry.models import list_versions
from ftlib.registry.search import Found, Places, canonical, find_places
from ftlib.runtime.preflight import check_output
from ftlib.text.keyed import KeyedHash, key_fingerprint

logger = get_logger(__name__)

PROOF = "erasure.json"
_RUN_CONFIG = "config.json"
_VERSION = re.compile(r"-erased-[0-9a-f]{8}$")


@dataclass
class Consequences:
    """What holds the person's rows, or was made from them; paths, all sorted."""

    runs: list[str] = field(default_factory=list)
    unfinished_runs: list[str] = field(default_factory=list)
    sweeps: list[str] = field(default_factory=list)
    evaluations: list[str] = field(default_factory=list)
    quoting_evaluations: list[str] = field(default_factory=list)
    """Those on the datasets themselves: their results quote rows."""
    others: list[str] = field(default_factory=list)
    """Promotions, pipelines."""
    models: list[dict[str, Any]] = field(default_factory=list)
    """Registered versions."""
    deployments: list[dict[str, Any]] = field(default_factory=list)
    token_caches: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    """Temporary folders of writes that were cut off, and datasets that were not finished."""
    inputs: list[str] = field(default_factory=list)
    """Where the raw records came from: the next preparation would bring the person back."""
    roll_backs: list[dict[str, Any]] = field(default_factory=list)


def erase(config: EraseConfig) -> dict[str, Any]:
    """Erase, or with `dry_run` list only; see `jobs.erase`.

    Returns:
        `manifest` and `path` of the proof, `num_rows`, `datasets` (old and new), what `Consequences` has, `must` (what
        is left to do, by verb) and `unsearchable`.

    Raises:
        UserError: no key, no prepared dataset under the paths, or nobody of that key in any of them.
    """
    started = time.time()
    key = redaction_key(create=False)
    person = _person(config, key)
    if config.output.path and not config.dry_run:
        check_output(config.output.path)
    versions = list_versions(config.registry.uri) if config.registry else []
    places = find_places(config.search.paths, (MANIFEST, INFO, _RUN_CONFIG))
    results = places.results()
    datasets = [item for item in results if item.kind == KIND and not _is_unfinished(item)]
    if not datasets:
        raise UserError(f"search.paths: no prepared dataset in {', '.join(config.search.paths)}")
    unsearchable, searchable = _split_searchable(datasets, key_fingerprint(key))
    holdings = [holding for item in searchable if (holding := find_rows(item, person))]
    earlier = [_entry(item) for item in searchable if _erased_before(item, person)]
    if not holdings and not earlier:
        raise UserError(_nobody(len(searchable), unsearchable))
    logger.info("%d datasets hold rows, %d were searched", len(holdings), len(searchable))
    origins = _origins(holdings, earlier)
    found = _consequences(places, results, holdings, origins, versions)
    result: dict[str, Any] = {"num_rows": sum(int(item.rows.sum()) for item in holdings)}
    if config.dry_run:
        entries = [*({"path": item.found.folder, "places": item.places} for item in holdings), *earlier]
        return {"manifest": None, **result, "datasets": entries, **_lists(found, entries, []), **unsearchable}
    entries = _write_versions(config, holdings, earlier, started)
    deleted = _delete([item.found.folder for item in holdings] + found.token_caches) if config.delete_old else []
    proof = {
        "subjects": sorted(person.subjects),
        "ids": sorted(person.hashed_ids),
        "num_rows": sum(entry["num_rows"] for entry in entries),
        "datasets": entries,
        **_lists(found, entries, deleted),
        **unsearchable,
    }
    manifest, reused = _write_proof(config, proof, started)
    return {"manifest": manifest, "path": manifest.rpartition("/")[0], **result, **proof, "reused": reused}


def _person(config: EraseConfig, key: bytes) -> Person:
    subjects = [*([config.subject] if config.subject else []), *config.subjects]
    if config.subjects_file:
        path = local_path(config.subjects_file)
        try:
            subjects += [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError):
            raise UserError(f"subjects_file={path}: cannot be read") from None
    if not subjects and not config.ids:
        raise UserError(f"subjects_file={config.subjects_file}: holds no key")
    hasher, ids = KeyedHash(key, SUBJECT_PURPOSE), KeyedHash(key, GIVEN_ID)
    hashed = frozenset(ids.hex(id_.encode("utf-8", "surrogatepass")) for id_ in config.ids)
    return Person(
        subjects=frozenset(subject_hash(hasher, subject) for subject in subjects),
        ids=frozenset(config.ids) | hashed,
        hashed_ids=hashed,
        keys=tuple(value.encode("utf-8", "surrogatepass") for value in [*subjects, *config.ids]),
    )


def _is_unfinished(item: Found) -> bool:
    """Whether a preparation did not end, or its gate said no: nobody may use the dataset, but it is there."""
    return item.kind == KIND and not exists(join(item.folder, SUCCESS))


def _split_searchable(datasets: Sequence[Found], keyed_by: str) -> tuple[dict[str, Any], list[Found]]:
    unsearchable, searchable = [], []
    for item in datasets:
        if item.manifest.get("keyed_by", keyed_by) != keyed_by:
            unsearchable.append({"path": item.folder, "reason": "prepared under another key"})
        elif not has_lineage(item.folder):
            unsearchable.append({"path": item.folder, "reason": "made by a version without lineage; prepare it again"})
        else:
            searchable.append(item)
    for entry in unsearchable:
        logger.warning("%s is not searched: %s", entry["path"], entry["reason"])
    return {"unsearchable": unsearchable}, searchable


def _nobody(num_searched: int, unsearchable: dict[str, Any]) -> str:
    message = f"none of {num_searched} prepared datasets has a row of this subject or id"
    if skipped := unsearchable["unsearchable"]:
        reasons = ", ".join(f"{entry['path']} ({entry['reason']})" for entry in skipped)
        message += f"; {len(skipped)} could not be searched: {reasons}"
    return f"{message}. Is FTLIB_KEY the key they were prepared with, and do search.paths name them all?"


def _erased_before(item: Found, person: Person) -> bool:
    """Whether a dataset is a version from which this person was erased."""
    record = item.manifest.get("erasure") or {}
    return bool({*record.get("subjects", [])} & person.subjects or {*record.get("ids", [])} & person.hashed_ids)


def _entry(item: Found) -> dict[str, Any]:
    """An erasure as the proof tells it, from the manifest of the new version."""
    record = item.manifest["erasure"]
    return {
        "path": record["parent"],
        "key": record["parent_key"],
        "training_key": record["parent_training_key"],
        "manifest_sha256": record["parent_manifest_sha256"],
        "num_rows": record["num_rows"],
        "places": record["places"],
        "new_path": item.folder,
        "new_key": item.manifest["key"],
        "new_manifest_sha256": item.sha256,
    }


def _origins(holdings: Sequence[Holding], earlier: Sequence[dict[str, Any]]) -> Origins:
    manifests = [item.found.manifest for item in holdings]
    keys = {entry[name] for entry in earlier for name in ("key", "training_key")}
    keys |= {key for manifest in manifests for key in (manifest["key"], training_key(manifest["files"]))}
    folders = [*(item.found.folder for item in holdings), *(entry["path"] for entry in earlier)]
    return Origins(frozenset(canonical(folder) for folder in folders), frozenset(keys))


def _consequences(
    places: Places,
    results: Sequence[Found],
    holdings: Sequence[Holding],
    origins: Origins,
    versions: Sequence[dict[str, Any]],
) -> Consequences:
    made = descendants(results, origins)
    runs = [item for item in made if item.kind == RUN]
    models = affected_versions(versions, runs, origins)
    served = [*_deployed(), *(item for item in results if item.kind == DEPLOYMENT)]
    served = list({canonical(item.folder): item for item in served}.values())
    hashes = [model["sha256"] for model in models]
    unfinished = _unfinished_runs(places, origins)
    inputs = {
        path
        for item in holdings
        for path in item.found.manifest.get("timing", {}).get("config", {}).get("input", {}).get("paths", [])
    }
    kinds = {RUN, "sweep", "evaluation"}
    return Consequences(
        runs=[item.folder for item in runs],
        unfinished_runs=unfinished,
        sweeps=[item.folder for item in made if item.kind == "sweep"],
        evaluations=[item.folder for item in made if item.kind == "evaluation"],
        quoting_evaluations=[
            item.folder for item in made if item.kind == "evaluation" and directly_from(item, origins)
        ],
        others=[item.folder for item in made if item.kind not in kinds],
        models=models,
        deployments=[
            {"app": Path(item.folder).name, "url": item.manifest.get("url"), "manifest": join(item.folder, MANIFEST)}
            for item in affected_deployments(served, runs, hashes)
        ],
        token_caches=_token_caches(places, origins, [*(item.folder for item in runs), *unfinished]),
        leftovers=sorted([*places.leftovers, *(item.folder for item in results if _is_unfinished(item))]),
        inputs=sorted(inputs),
        roll_backs=roll_backs(versions, models),
    )


def _deployed() -> list[Found]:
    """The deployments of this machine's `FTLIB_HOME`."""
    folder = state_home() / "deployments"
    return find_places([str(folder)], [MANIFEST]).results() if folder.is_dir() else []


def _unfinished_runs(places: Places, origins: Origins) -> list[str]:
    """Runs without a manifest, whose checkpoints may have learnt from the datasets."""
    found = []
    for folder in set(places.by_name[_RUN_CONFIG]) - set(places.by_name[MANIFEST]):
        try:
            data = read_json(join(folder, _RUN_CONFIG)).get("data", {}).get("path")
        except (UserError, AttributeError):
            continue  # a model's configuration, or another program's
        if isinstance(data, str) and canonical(data) in origins.folders:
            found.append(folder)
    return sorted(found)


def _token_caches(places: Places, origins: Origins, runs: Sequence[str]) -> list[str]:
    """Packed splits that hold tokens of the datasets; those that do not say so, where an affected run lies beside."""
    beside = {canonical(folder).rpartition("/")[0] for folder in runs}
    found = []
    for folder in places.by_name[INFO]:
        path = join(folder, INPUTS)
        if exists(path):
            affected = read_json(path).get("data") in origins.keys
        else:
            affected = canonical(folder).rsplit("/", 2)[0] in beside
        if affected:
            found.append(folder)
    return found


def _write_versions(
    config: EraseConfig, holdings: Sequence[Holding], earlier: Sequence[dict[str, Any]], started: float
) -> list[dict[str, Any]]:
    """The new versions, written or found, with those of earlier erasures; sorted by path."""
    entries = {entry["new_path"]: entry for entry in earlier}
    for holding in holdings:
        parent, _, name = holding.found.folder.rpartition("/")
        path = join(config.output.path or parent, f"{_VERSION.sub('', name)}-erased-{holding.key[:8]}")
        write_version(holding, path, started)
        found = find_places([path], [MANIFEST]).results()[0]
        left = find_rows(found, holding.person)
        if left is not None:
            raise RuntimeError(f"{path}: rows of the subject are left in the new version")
        logger.info("%s: %d rows erased, new version %s", holding.found.folder, holding.rows.sum(), path)
        entries[found.folder] = _entry(found)
    return sorted(entries.values(), key=lambda entry: (entry["path"], entry["new_path"]))


def _delete(folders: Sequence[str]) -> list[str]:
    for folder in folders:
        fs, inner = filesystem(folder)
        fs.rm(inner, recursive=True)
        logger.info("deleted %s", folder)
    return sorted(folders)


def _lists(found: Consequences, entries: Sequence[dict[str, Any]], deleted: Sequence[str]) -> dict[str, Any]:
    """The lists of the proof, and what is left to do by verb."""
    old = sorted({entry["path"] for entry in entries if exists(entry["path"])})
    holders = [*old, *found.token_caches, *found.quoting_evaluations, *found.unfinished_runs, *found.leftovers]
    must = {
        "retrain": found.runs,
        "sweep_again": found.sweeps,
        "evaluate_again": found.evaluations,
        "roll_back": [_move(move) for move in found.roll_backs],
        "undeploy": [f"{item['app']} ({item['manifest']})" for item in found.deployments],
        "delete": [folder for folder in holders if folder not in deleted],
        "erase_at_source": found.inputs,
    }
    return {**asdict(found), "deleted": list(deleted), "must": {verb: what for verb, what in must.items() if what}}


def _move(move: dict[str, Any]) -> str:
    target = f"to version {move['to']}" if move["to"] else "and no other version is left"
    return f"{move['name']} alias {move['alias']} from version {move['from']} {target}"


def _write_proof(config: EraseConfig, proof: dict[str, Any], started: float) -> tuple[str, bool]:
    """Write `erasure.json` and its manifest, or find them; the manifest's path, and whether it was there."""
    key = fingerprint(proof)
    folder = join(config.output.path or proof["datasets"][0]["new_path"].rpartition("/")[0], f"erasure-{key[:8]}")
    if finished(folder, key):
        return join(folder, MANIFEST), True
    text = json.dumps({"time": datetime.fromtimestamp(started, UTC).isoformat(), **proof}, indent=2) + "\n"
    write_text(join(folder, PROOF), text)
    settings = config.resolved()
    for name in ("subject", "subjects", "ids"):
        settings.pop(name)
    manifest = build_manifest(
        "erasure",
        key,
        settings,
        inputs={entry["path"]: entry["manifest_sha256"] for entry in proof["datasets"]},
        counts={"num_rows": proof["num_rows"], "datasets": len(proof["datasets"])},
        files={PROOF: hashlib.sha256(text.encode()).hexdigest()},
        parents=[join(entry["path"], MANIFEST) for entry in proof["datasets"]],
        started=started,
    )
    return write_manifest(folder, manifest), False
