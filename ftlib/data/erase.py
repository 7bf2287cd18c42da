"""The driver of `jobs.erase`: find a person everywhere, write datasets without them, list what must follow, prove it.

What must follow is found by `data.consequences`. Keys are brought to the form that readers give them (`data.values`):
4711, 4711.0 and " 4711" are one person. Rows under keys that are merely written alike stay, and are told of. Subjects
are compared as keyed hashes, so the key must be the one the data was prepared with; datasets under another key, or of a
version of ftlib that kept no lineage, are reported as not searched. Old versions, runs and deployments stay until
somebody acts on the lists (`delete_old` deletes the old datasets and their packed tokens).

The proof, `erasure-KEY/erasure.json` with a manifest, holds hashes, counts, paths and digests, nothing of the person.
The same erasure is found again: nothing is written twice.
"""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from ftlib.config.erase import EraseConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import fingerprint
from ftlib.core.logging import get_logger
from ftlib.core.secrets import redaction_key
from ftlib.core.storage import filesystem, join, write_text
from ftlib.data.consequences import (
    REVIEW_SUFFIXES,
    RUN_CONFIG,
    Consequences,
    World,
    find_consequences,
    is_unfinished,
    list_of,
)
from ftlib.data.erased import Holding, find_near, find_rows, write_version
from ftlib.data.lineage import has_lineage
from ftlib.data.pack import INFO
from ftlib.data.person import Person, read_person
from ftlib.data.prepared import KIND, training_key
from ftlib.data.write import LINEAGE_FILE
from ftlib.registry.derived import Origins
from ftlib.registry.manifest import MANIFEST, build_manifest, finished, listed_files, verify_files, write_manifest
from ftlib.registry.models import list_versions
from ftlib.registry.search import Found, canonical, find_places
from ftlib.runtime.preflight import check_output
from ftlib.text.keyed import key_fingerprint

logger = get_logger(__name__)

PROOF = "erasure.json"
_VERSION = re.compile(r"-erased-[0-9a-f]{8}$")


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
    person = read_person(config, key)
    if config.output.path and not config.dry_run:
        check_output(config.output.path)
    versions = list_versions(config.registry.uri) if config.registry else []
    places = find_places(config.search.paths, (MANIFEST, INFO, RUN_CONFIG), REVIEW_SUFFIXES)
    results = places.results()
    datasets = [item for item in results if item.kind == KIND and not is_unfinished(item)]
    if not datasets:
        raise UserError(f"search.paths: no prepared dataset in {', '.join(config.search.paths)}")
    unsearchable, searchable = _split_searchable(datasets, key_fingerprint(key))
    holdings = [holding for item in searchable if (holding := find_rows(item, person))]
    near = [alike for item in searchable if (alike := find_near(item, person))]
    _warn_of_near(near)
    earlier = [_entry(item) for item in searchable if _erased_before(item, person)]
    if not holdings and not earlier:
        raise UserError(_nobody(len(searchable), unsearchable, near))
    logger.info("%d datasets hold rows, %d were searched", len(holdings), len(searchable))
    origins = _origins(holdings, earlier)
    world = World(places, results, versions, person, config)
    found = find_consequences(world, holdings, origins)
    result: dict[str, Any] = {"num_rows": sum(int(item.rows.sum()) for item in holdings)}
    told = {**unsearchable, "near": near}
    if config.dry_run:
        entries = [*(_planned(config, item) for item in holdings), *earlier]
        doomed = _doomed(config, holdings, found)
        return {"manifest": None, **result, "datasets": entries, **list_of(found, entries, doomed), **told} | {
            "deleted": [],
            "would_delete": doomed,
        }
    entries = _write_versions(config, holdings, earlier, started)
    deleted = _delete(_doomed(config, holdings, found))
    proof = {
        "subjects": sorted(person.subjects),
        "ids": sorted(person.hashed_ids),
        "num_rows": sum(entry["num_rows"] for entry in entries),
        "datasets": entries,
        **list_of(found, entries, deleted),
        **told,
    }
    manifest, reused = _write_proof(config, proof, started)
    return {"manifest": manifest, "path": manifest.rpartition("/")[0], **result, **proof, "reused": reused}


def _doomed(config: EraseConfig, holdings: Sequence[Holding], found: Consequences) -> list[str]:
    """What `delete_old` deletes."""
    return sorted([*(item.found.folder for item in holdings), *found.token_caches]) if config.delete_old else []


def _planned(config: EraseConfig, holding: Holding) -> dict[str, Any]:
    """A dry run's entry of a dataset."""
    return {
        "path": holding.found.folder,
        "num_rows": int(holding.rows.sum()),
        "places": holding.places,
        "new_path": _version_path(config, holding),
    }


def _version_path(config: EraseConfig, holding: Holding) -> str:
    parent, _, name = holding.found.folder.rpartition("/")
    return join(config.output.path or parent, f"{_VERSION.sub('', name)}-erased-{holding.key[:8]}")


def _warn_of_near(near: Sequence[dict[str, Any]]) -> None:
    """Tell of rows that are not erased though their key is written like the person's."""
    for item in near:
        if item["num_rows"] is None:
            logger.warning("%s: made by a version that cannot tell of similar keys: not checked", item["path"])
        if item["num_rows"]:
            logger.warning(
                "%s: %d rows stand under %d other keys that differ in case, accents, leading zeros, blanks or "
                "punctuation alone; they stay: if one is the same person, erase it by its own spelling",
                item["path"],
                item["num_rows"],
                item["num_keys"],
            )
        if item["num_ids"]:
            logger.warning("%s: %d other ids are written like one of ids", item["path"], item["num_ids"])


def _split_searchable(datasets: Sequence[Found], keyed_by: str) -> tuple[dict[str, Any], list[Found]]:
    unsearchable, searchable = [], []
    for item in datasets:
        if item.manifest.get("keyed_by", keyed_by) != keyed_by:
            unsearchable.append({"path": item.folder, "reason": "prepared under another key"})
        elif not has_lineage(item.folder):
            unsearchable.append({"path": item.folder, "reason": "made by a version without lineage; prepare it again"})
        elif problem := _problem(item):
            unsearchable.append({"path": item.folder, "reason": problem})
        else:
            searchable.append(item)
    for entry in unsearchable:
        logger.warning("%s is not searched: %s", entry["path"], entry["reason"])
    return {"unsearchable": unsearchable}, searchable


def _problem(item: Found) -> str | None:
    """Why a dataset cannot be trusted to say who is in it; None where it can."""
    try:
        files = listed_files(item.folder, item.manifest)
        lineage = [name for name in files if name.split("/", 1)[0] == LINEAGE_FILE]
        verify_files(item.folder, item.manifest, sorted(lineage))
        if not lineage or not isinstance(item.manifest.get("key"), str):
            raise UserError("its manifest is malformed")
    except UserError as error:
        return f"not as it was written, so delete it or prepare it again: {error}"
    return None


def _nobody(num_searched: int, unsearchable: dict[str, Any], near: Sequence[dict[str, Any]]) -> str:
    message = f"none of {num_searched} prepared datasets has a row of this subject or id"
    if num_alike := sum((item["num_rows"] or 0) + item["num_ids"] for item in near):
        message += (
            f"; {num_alike} rows stand under keys that differ in case, accents, leading zeros, blanks or punctuation "
            "alone: look up the spelling in the source"
        )
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


def _write_versions(
    config: EraseConfig, holdings: Sequence[Holding], earlier: Sequence[dict[str, Any]], started: float
) -> list[dict[str, Any]]:
    """The new versions, written or found, with those of earlier erasures; sorted by path."""
    entries = {entry["new_path"]: entry for entry in earlier}
    for holding in holdings:
        path = _version_path(config, holding)
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
