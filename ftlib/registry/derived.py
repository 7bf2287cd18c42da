"""What was made from a dataset: runs, sweeps, evaluations, promotions, registered versions and deployments.

A result follows from a dataset when a manifest says so: by `parents` (paths of manifests), by the dataset's path, or by
its keys, which hold when folders were moved. What follows from such a result follows too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ftlib.registry.search import Found, canonical

PREPARED, RUN, DEPLOYMENT = "prepared", "run", "deployment"


@dataclass(frozen=True)
class Origins:
    """The datasets in question."""

    folders: frozenset[str]
    """Canonical paths."""
    keys: frozenset[str]
    """Keys of their manifests and of their training files (`PreparedDataset.training_key`)."""


def descendants(results: Sequence[Found], origins: Origins) -> list[Found]:
    """Results made from the datasets, directly or not, in the order given; other datasets are no descendants."""
    folders, keys = set(origins.folders), set(origins.keys)
    found: dict[str, Found] = {}
    waiting = [item for item in results if item.kind not in (PREPARED, DEPLOYMENT, "erasure")]
    while True:
        new = [item for item in waiting if item.folder not in found and _follows(item.manifest, folders, keys)]
        if not new:
            return [item for item in waiting if item.folder in found]
        for item in new:
            found[item.folder] = item
            folders.add(canonical(item.folder))
            keys.update(filter(None, [item.manifest.get("key"), item.manifest.get("result_sha256")]))


def directly_from(found: Found, origins: Origins) -> bool:
    """Whether a result was made from one of the datasets itself."""
    return _follows(found.manifest, set(origins.folders), set(origins.keys))


def _follows(manifest: dict[str, Any], folders: set[str], keys: set[str]) -> bool:
    given = manifest.get("parents")
    parents = [path.rpartition("/")[0] for path in given if isinstance(path, str)] if isinstance(given, list) else []
    config = _section(manifest, "config")
    sections = [manifest.get("dataset"), config.get("data"), _section(config, "train").get("data")]
    paths = [*parents, *(path for section in sections for path in _strings(section, "path"))]
    return bool(
        {canonical(path) for path in paths if path} & folders
        or {*_strings(manifest.get("dataset"), "key"), *_strings(manifest.get("inputs"), "dataset", "data")} & keys
        or {*_strings(manifest.get("model"), "adapter_sha256", "result_sha256")} & keys
    )


def _section(values: Any, name: str) -> dict[str, Any]:
    """A section of a manifest; empty where it has another type."""
    found = values.get(name) if isinstance(values, dict) else None
    return found if isinstance(found, dict) else {}


def _strings(section: Any, *names: str) -> list[str]:
    if not isinstance(section, dict):
        return []
    return [value for name in names if isinstance(value := section.get(name), str)]


def affected_versions(
    versions: Sequence[dict[str, Any]], runs: Sequence[Found], origins: Origins
) -> list[dict[str, Any]]:
    """Registered versions (`registry.models.list_versions`) of these runs, or trained on these datasets."""
    hashes = {run.manifest.get("result_sha256") for run in runs}
    folders = {canonical(run.folder) for run in runs}
    return [
        version
        for version in versions
        if version["sha256"] in hashes
        or version["dataset"] in origins.keys
        or (version["run_path"] and canonical(version["run_path"]) in folders)
    ]


def roll_backs(versions: Sequence[dict[str, Any]], affected: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each alias on an affected version, the newest version of its name to go back to (None: there is none)."""
    gone = {(item["name"], item["version"]) for item in affected}
    moves = []
    for item in affected:
        good = [v["version"] for v in versions if v["name"] == item["name"] and (v["name"], v["version"]) not in gone]
        moves += [
            {"name": item["name"], "alias": alias, "from": item["version"], "to": max(good, default=None)}
            for alias in item["aliases"]
        ]
    return moves


def affected_deployments(deployments: Sequence[Found], runs: Sequence[Found], hashes: Iterable[str]) -> list[Found]:
    """Deployments that serve one of these contents, or files of one of these runs."""
    known = set(hashes) | {str(run.manifest.get("result_sha256")) for run in runs}
    folders = {canonical(run.folder) for run in runs}
    below = tuple(folder + "/" for folder in folders)

    def serves(manifest: dict[str, Any]) -> bool:
        inputs = _section(manifest, "inputs")
        given = inputs.get("adapters")
        adapters = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
        paths = [path for item in adapters for path in _strings(item, "path")] + _strings(inputs.get("base"), "source")
        inside = [path for path in paths if path and (canonical(path) + "/").startswith(below)]
        return bool(inside or known & {sha for item in adapters for sha in _strings(item, "sha256")})

    return [
        found
        for found in deployments
        if found.kind == DEPLOYMENT and (serves(found.manifest) or _follows(found.manifest, folders, known))
    ]
