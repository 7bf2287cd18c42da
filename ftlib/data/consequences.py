"""What must follow an erasure: everything that holds the person's rows, or was made from them, with the commands.

Searched are the results under `search.paths` (runs, sweeps, evaluations, packed tokens, review exports, leftovers), the
model registry with its copies of models, the deployments in `FTLIB_HOME` and what their endpoints keep (`state_dir`).
Nothing is deleted here.
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftlib.config.erase import EraseConfig
from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from ftlib.core.storage import exists, is_uri, join, read_json, state_home
from ftlib.data import schema as s
from ftlib.data.erased import Holding
from ftlib.data.pack import INFO
from ftlib.data.person import Person
from ftlib.data.prepared import KIND, SUCCESS
from ftlib.data.review_search import search_reviews
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
from ftlib.registry.endpoint_state import search_state
from ftlib.registry.manifest import MANIFEST
from ftlib.registry.remove import copies_of
from ftlib.registry.search import Found, Places, canonical, find_places

logger = get_logger(__name__)

RUN_CONFIG = "config.json"
REVIEW_SUFFIXES = (".json", ".jsonl")


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
    registry_copies: list[dict[str, Any]] = field(default_factory=list)
    """Copies of affected models that a registry made: `name`, `version`, `source`, `copies`, `command`."""
    reviews: list[dict[str, Any]] = field(default_factory=list)
    """Review exports with rows of the person: `path`, `num_rows`."""
    endpoint_files: list[dict[str, Any]] = field(default_factory=list)
    """Uploads, answers and batches of endpoints (`registry.endpoint_state`)."""
    not_searched: list[dict[str, str]] = field(default_factory=list)
    """Files that may hold the person and could not be read: `path`, `reason`."""


def is_unfinished(item: Found) -> bool:
    """Whether a preparation did not end, or its gate said no: nobody may use the dataset, but it is there."""
    return item.kind == KIND and not exists(join(item.folder, SUCCESS))


@dataclass(frozen=True)
class World:
    """Where consequences are looked for, and whose."""

    places: Places
    results: Sequence[Found]
    versions: Sequence[dict[str, Any]]
    """Of the registry."""
    person: Person
    config: EraseConfig


def find_consequences(world: World, holdings: Sequence[Holding], origins: Origins) -> Consequences:
    """Everything that holds rows of the datasets, or was made from them."""
    places, results, versions = world.places, world.results, world.versions
    made = descendants(results, origins)
    runs = [item for item in made if item.kind == RUN]
    models = affected_versions(versions, runs, origins)
    served = [*_deployed(), *(item for item in results if item.kind == DEPLOYMENT)]
    served = list({canonical(item.folder): item for item in served}.values())
    hashes = [model["sha256"] for model in models]
    unfinished = _unfinished_runs(places, origins)
    inputs = {path for item in holdings for path in _configured(item.found, "input", "paths") or []}
    kinds = {RUN, "sweep", "evaluation"}
    reviews, unread = _reviews(world, holdings)
    endpoint_files, unread_state = _endpoint_files(world, served)
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
        leftovers=sorted([*places.leftovers, *(item.folder for item in results if is_unfinished(item))]),
        inputs=sorted(inputs),
        roll_backs=roll_backs(versions, models),
        registry_copies=[_copies(world.config, model) for model in models],
        reviews=reviews,
        endpoint_files=endpoint_files,
        not_searched=[*unread, *unread_state],
    )


def _copies(config: EraseConfig, model: dict[str, Any]) -> dict[str, Any]:
    """A registered version's own copies of the model, and how they are deleted."""
    uri = config.registry.uri if config.registry else ""
    name, version, source = model["name"], model["version"], model.get("source") or ""
    command = f"python -m ftlib.registry.remove {shlex.quote(uri)} {shlex.quote(name)} {version}"
    copies = copies_of(source, model["sha256"])
    return {"name": name, "version": version, "source": source, "copies": copies, "command": command}


def _reviews(world: World, holdings: Sequence[Holding]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Review exports: under the search paths, and those that the datasets were prepared with."""
    theirs = [item.lineage.filter(item.rows) for item in holdings]
    pairs = [zip(table[s.SOURCE].to_pylist(), table[s.POSITION].to_pylist(), strict=True) for table in theirs]
    ids = {id_ for table in theirs for id_ in table[s.ID].to_pylist()} | world.person.ids
    named = {
        path
        for item in world.results
        for path in [_configured(item, "review", "decisions")]
        if isinstance(path, str) and exists(path)
    }
    own = tuple(f"{canonical(item.found.folder)}/" for item in holdings)
    loose = [path for path in world.places.files if not path.startswith(own)]
    paths = sorted({*named, *loose})
    return search_reviews(paths, world.person, frozenset(pair for each in pairs for pair in each), frozenset(ids))


def _endpoint_files(world: World, served: Sequence[Found]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """What endpoints keep of the person, affected by a dataset or not: clients send what they like."""
    folders = {canonical(path) for path in world.config.search.state_dirs}
    for item in served:
        if item.kind == DEPLOYMENT:
            config = item.manifest.get("config")
            configured = config.get("state_dir") if isinstance(config, dict) else None
            given = isinstance(configured, str) and configured
            folders.add(canonical(str(configured)) if given else join(canonical(item.folder), "state"))
    held: list[dict[str, Any]] = []
    unread: list[dict[str, str]] = []
    for folder in sorted(folders):
        if is_uri(folder):
            unread.append({"path": folder, "reason": "an endpoint's state is a local folder"})
            continue
        found = search_state(folder, world.person.place_in)
        held += found.held
        unread += found.unsearched
    return held, unread


def _deployed() -> list[Found]:
    """The deployments of this machine's `FTLIB_HOME`."""
    folder = state_home() / "deployments"
    return find_places([str(folder)], [MANIFEST]).results() if folder.is_dir() else []


def _configured(item: Found, section: str, key: str) -> Any:
    """A value of the configuration that a dataset was prepared with; None where its manifest has none."""
    node: Any = item.manifest
    for name in ("timing", "config", section, key):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _unfinished_runs(places: Places, origins: Origins) -> list[str]:
    """Runs without a manifest, whose checkpoints may have learnt from the datasets."""
    found = []
    for folder in set(places.by_name[RUN_CONFIG]) - set(places.by_name[MANIFEST]):
        try:
            data = read_json(join(folder, RUN_CONFIG)).get("data", {}).get("path")
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
            inputs = read_json(path)
            affected = isinstance(inputs, dict) and inputs.get("data") in origins.keys
        else:
            affected = canonical(folder).rsplit("/", 2)[0] in beside
        if affected:
            found.append(folder)
    return found


def list_of(found: Consequences, entries: Sequence[dict[str, Any]], deleted: Sequence[str]) -> dict[str, Any]:
    """The lists of the proof, and what is left to do by verb."""
    old = sorted({entry["path"] for entry in entries if exists(entry["path"])})
    holders = [*old, *found.token_caches, *found.quoting_evaluations, *found.unfinished_runs, *found.leftovers]
    delete = [folder for folder in holders if folder not in deleted]
    must = {
        "retrain": found.runs,
        "sweep_again": found.sweeps,
        "evaluate_again": found.evaluations,
        "roll_back": [_move(move) for move in found.roll_backs],
        "undeploy": [f"{item['app']} ({item['manifest']})" for item in found.deployments],
        "delete": [*delete, *(item["path"] for item in found.endpoint_files)],
        "delete_copies": [f"{item['name']} version {item['version']}" for item in found.registry_copies],
        "erase_at_source": [*found.inputs, *(item["path"] for item in found.reviews)],
    }
    commands = [
        *(_delete_command(path) for path in delete),
        *(item["command"] for item in [*found.endpoint_files, *found.registry_copies]),
    ]
    return {
        **asdict(found),
        "deleted": list(deleted),
        "must": {verb: what for verb, what in must.items() if what},
        "commands": commands,
    }


def _delete_command(path: str) -> str:
    """How a folder or prefix is deleted."""
    quoted = shlex.quote(path)
    scheme = path.split("://", 1)[0] if is_uri(path) else ""
    tools = {"s3": "aws s3 rm --recursive", "gs": "gcloud storage rm --recursive", "": "rm -rf --"}
    return f"{tools.get(scheme, f'# with the client of {scheme}: delete')} {quoted}"


def _move(move: dict[str, Any]) -> str:
    target = f"to version {move['to']}" if move["to"] else "and no other version is left"
    return f"{move['name']} alias {move['alias']} from version {move['from']} {target}"
