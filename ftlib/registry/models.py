"""The model registry, on MLflow: names → immutable versions with artifacts of their own → aliases.

A version is the adapter (or model) folder of a run, copied, so that the run may be deleted; its SHA-256 is checked when
it goes in and whenever an alias is resolved. The same content is registered once. An MLflow run goes with each version
and carries the figures, so that MLflow's own pages show them.

`registry.uri` is a folder (`mlflow.db` and `artifacts/` inside), `sqlite:///FILE` (artifacts beside it), or the URL of
an MLflow server, whose credentials MLflow reads from `MLFLOW_TRACKING_USERNAME`, `_PASSWORD` or `_TOKEN`.
MLflow takes 2–4 s to import and is imported inside the calls alone.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ftlib.config.promote import RegistryConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import folder_sha256
from ftlib.core.logging import get_logger
from ftlib.core.storage import atomic_dir, filesystem, is_uri, join, local_path, make_private_dir, state_home
from ftlib.registry.candidate import Candidate, load_candidate

logger = get_logger(__name__)

EXPERIMENT = "ftlib"
ARTIFACT = "model"  # artifact path of the model folder in its MLflow run
TAG = "ftlib."  # prefix of our tags
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output belongs to a job's result
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own 7 retries with back-off keep a mistyped address waiting for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry, its content on this machine and verified.

    `adapter_path` is the folder of the adapter, or of the whole model when `result` is `model`.
    """

    name: str
    version: int
    adapter_path: Path
    sha256: str
    base_source: str
    base_fingerprint: str
    run_id: str
    result: str


def register(run_path: str, evaluation_path: str, registry: RegistryConfig, alias: str | None) -> RegisteredModel:
    """Register a run's adapter or model with the figures of its evaluation, and point `alias` at it.

    The rules of promotion are the caller's (`ftlib.registry.promotion`). Raises UserError when the run's files changed
    since it ended, or the registry cannot be reached.
    """
    candidate = load_candidate(run_path, evaluation_path)
    sha256 = candidate.run.sha256
    with mlflow_client(registry, create=True) as client:
        _ensure_name(client, registry.name)
        model = _known(client, registry.name, sha256)
        if model is None:
            model = _fetch(client, _add_version(client, candidate, registry))
            logger.info("registered %s version %s", model.name, model.version)
        else:
            for key, value in _tags(candidate).items():
                client.set_model_version_tag(model.name, str(model.version), key, value)
        if alias is not None:
            client.set_registered_model_alias(model.name, alias, str(model.version))
        return model


def set_alias(registry: RegistryConfig, alias: str, version: int) -> None:
    """Point an alias at a version that is registered: also the way back to an earlier one."""
    with mlflow_client(registry) as client:
        client.set_registered_model_alias(registry.name, alias, str(version))


def resolve_alias(registry: RegistryConfig, alias: str) -> RegisteredModel:
    """The version behind an alias, its files local and their SHA-256 checked.

    From a server they are downloaded once into `FTLIB_HOME`. Raises UserError for an unknown name or alias, an
    unreachable registry, or files that are not those registered.
    """
    with mlflow_client(registry) as client:
        aliases = dict(client.get_registered_model(registry.name).aliases)
        if alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none yet"
            raise UserError(f"{registry.uri}: model {registry.name} has no alias {alias} (aliases: {known})")
        return _fetch(client, client.get_model_version(registry.name, str(aliases[alias])))


def list_versions(uri: str) -> list[dict[str, Any]]:
    """All versions that ftlib registered at `uri`, by name and version.

    Each has `name`, `version`, `aliases`, `sha256`, `run_id`, `run_path`, `dataset` (key of the training data) and
    `source` (where its copy of the files is).
    """
    found = []
    with mlflow_client(RegistryConfig(uri=uri)) as client:
        aliases: dict[tuple[str, str], list[str]] = {}
        for model in _every(client.search_registered_models):
            for alias, number in sorted(dict(model.aliases).items()):
                aliases.setdefault((model.name, str(number)), []).append(alias)
        for version in _every(client.search_model_versions):
            tags = {key.removeprefix(TAG): value for key, value in version.tags.items() if key.startswith(TAG)}
            if "sha256" not in tags:
                continue
            origin = {name: tags.get(name) for name in ("sha256", "run_id", "run_path", "dataset")}
            given = aliases.get((version.name, str(version.version)), [])
            named = {"name": version.name, "version": int(version.version), "aliases": given}
            found.append({**named, **origin, "source": version.source})
    return sorted(found, key=lambda item: (item["name"], item["version"]))


def _every(search: Any) -> Iterator[Any]:
    """All pages of an MLflow search."""
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def tracking_uri(registry: RegistryConfig) -> str:
    """MLflow's address of a registry. Raises UserError for an object store: SQLite needs a local disk."""
    uri = registry.uri
    if uri.startswith(("http://", "https://", "sqlite:///")):
        return uri
    if is_uri(uri):
        raise UserError(
            f"registry.uri={uri}: SQLite needs a local disk; give a local folder or the URL of an MLflow server"
        )
    return f"sqlite:///{local_path(uri).absolute()}/mlflow.db"


@contextmanager
def mlflow_client(registry: RegistryConfig, create: bool = False) -> Iterator[Any]:
    """An MLflow client of the registry; what MLflow says about the user's input becomes a UserError."""
    uri = tracking_uri(registry)
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        if create:
            make_private_dir(database.parent)
        elif not database.exists():
            raise UserError(f"registry.uri={registry.uri}: nothing is registered there yet; run jobs.promote first")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        raise UserError(f"registry.uri={registry.uri}: {error.message}") from error


def _known(client: Any, name: str, sha256: str) -> RegisteredModel | None:
    """The oldest version with this content whose files are intact."""
    versions = client.search_model_versions(f"name='{name}' and tags.`{TAG}sha256`='{sha256}'")
    for version in sorted(versions, key=lambda item: int(item.version)):
        try:
            return _fetch(client, version)
        except UserError as error:
            logger.warning("%s", error)
    return None


def _ensure_name(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def open_experiment(client: Any, registry: RegistryConfig, name: str = EXPERIMENT) -> str:
    """The id of an experiment, made on first use; on SQLite its artifacts lie beside the database."""
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(registry)
    location = str(Path(uri.removeprefix("sqlite:///")).parent / "artifacts") if uri.startswith("sqlite") else None
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(client.get_experiment_by_name(name).experiment_id)


def _add_version(client: Any, candidate: Candidate, registry: RegistryConfig) -> Any:
    """Copy the result's files into an MLflow run and make a version of them; the run fails if this does."""
    run = candidate.run
    with _local_copy(join(run.path, run.result)) as folder:
        actual = folder_sha256(folder)
        if actual != run.sha256:
            raise UserError(
                f"{run.path}/{run.result}: its files changed after the run ended "
                f"(sha256 {actual[:12]}…, the manifest says {run.sha256[:12]}…); train again"
            )
        info = client.create_run(open_experiment(client, registry), run_name=run.run_id).info
        try:
            client.log_artifacts(info.run_id, str(folder), ARTIFACT)
            for name, value in _figures(candidate).items():
                client.log_metric(info.run_id, name, value)
            version = client.create_model_version(
                registry.name, f"{info.artifact_uri}/{ARTIFACT}", run_id=info.run_id, tags=_tags(candidate)
            )
        except BaseException:
            client.set_terminated(info.run_id, "FAILED")
            raise
        client.set_terminated(info.run_id)
        return version


def _figures(candidate: Candidate) -> dict[str, float]:
    """Every figure of the run and its evaluation."""
    figures = {"val_loss": candidate.run.val_loss}
    figures |= {name: entry["value"] for name, entry in candidate.metrics.items()}
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}


def _tags(candidate: Candidate) -> dict[str, str]:
    """What a version says about its origin; all values are strings in MLflow."""
    run = candidate.run
    tags = {
        "sha256": run.sha256,
        "result": run.result,
        "run_id": run.run_id,
        "run_path": run.path,
        "base_source": run.base_source,
        "base_fingerprint": run.base_fingerprint,
        "dataset": run.dataset,
        "chat_template": run.chat_template,
        "evaluation_key": candidate.evaluation["key"],
        "evaluation_path": candidate.evaluation_path,
        **{f"metric.{name}": f"{value:.6g}" for name, value in _figures(candidate).items()},
    }
    return {TAG + name: str(value) for name, value in tags.items() if value is not None}


@contextmanager
def _local_copy(path: str) -> Iterator[Path]:
    """A folder on this machine: itself if local, else a temporary download."""
    if not is_uri(path):
        folder = local_path(path)
        if not folder.is_dir():
            raise UserError(f"{path}: no such folder; the run is incomplete or was deleted")
        yield folder
        return
    fs, inner = filesystem(path)
    with TemporaryDirectory() as temporary:
        fs.get(f"{inner.rstrip('/')}/", f"{temporary}/", recursive=True)
        yield Path(temporary)


def _fetch(client: Any, version: Any) -> RegisteredModel:
    """The version's files on this machine, verified."""
    tags = {key.removeprefix(TAG): value for key, value in version.tags.items() if key.startswith(TAG)}
    label = f"{version.name} version {version.version}"
    if "sha256" not in tags:
        raise UserError(f"{label} was not registered by ftlib: it has no {TAG}sha256 tag")
    source = version.source.removeprefix("file://")
    if os.path.isabs(source) and Path(source).is_dir():
        folder = Path(source)
    else:
        folder = state_home() / "registry" / tags["sha256"]
        if not folder.is_dir():
            with atomic_dir(str(folder)) as temporary, TemporaryDirectory(dir=temporary.parent) as download:
                client.download_artifacts(version.run_id, ARTIFACT, download)
                for item in (Path(download) / ARTIFACT).iterdir():
                    item.rename(temporary / item.name)
    actual = folder_sha256(folder)
    if actual != tags["sha256"]:
        raise UserError(
            f"{label}: the files in {folder} are not those registered "
            f"(sha256 {actual[:12]}…, registered {tags['sha256'][:12]}…); register the run again"
        )
    return RegisteredModel(
        name=version.name,
        version=int(version.version),
        adapter_path=folder,
        sha256=actual,
        base_source=tags["base_source"],
        base_fingerprint=tags["base_fingerprint"],
        run_id=tags["run_id"],
        result=tags["result"],
    )
