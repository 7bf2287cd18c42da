"""`python -m ftlib.registry.remove REGISTRY NAME VERSION`: delete a registered version and every copy of its files.

Gone are the version, the files of its MLflow run, and the copy that a deployment from a server left in `FTLIB_HOME`. An
alias must be moved first: a version that is served by name cannot be taken away unseen.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from ftlib.config.promote import RegistryConfig
from ftlib.core.errors import FtlibError, UserError
from ftlib.core.storage import state_home
from ftlib.registry.models import TAG, mlflow_client


def remove_version(uri: str, name: str, version: int) -> list[str]:
    """Delete a version; returns the folders that were deleted. Raises UserError for one that an alias points at."""
    with mlflow_client(RegistryConfig(uri=uri)) as client:
        found = client.get_model_version(name, str(version))
        # Aliases are not on the version itself in every release of MLflow.
        pointing = sorted(
            a for a, at in dict(client.get_registered_model(name).aliases).items() if str(at) == str(version)
        )
        if pointing:
            raise UserError(
                f"{name} version {version} has the alias {', '.join(pointing)}: point it at another version first "
                "(jobs.promote of another run, or ftlib.registry.models.set_alias)"
            )
        client.delete_model_version(name, str(version))
        deleted = copies_of(found.source, found.tags.get(f"{TAG}sha256"))
        for folder in deleted:
            shutil.rmtree(folder)
        if found.run_id:
            client.delete_run(found.run_id)
    return deleted


def copies_of(source: str, sha256: str | None) -> list[str]:
    """Local folders that hold a version's files: its artifacts, and what was downloaded from a server."""
    candidates = [Path(source.removeprefix("file://"))] if source.startswith(("/", "file://")) else []
    if sha256:
        candidates.append(state_home() / "registry" / sha256)
    return [str(path) for path in candidates if path.is_dir()]


def main(argv: list[str] | None = None) -> int:
    """Delete and print what was deleted; the exit code."""
    arguments: list[Any] = sys.argv[1:] if argv is None else argv
    try:
        if len(arguments) != 3 or not arguments[2].isdigit():
            raise UserError("usage: python -m ftlib.registry.remove REGISTRY NAME VERSION")
        for folder in remove_version(arguments[0], arguments[1], int(arguments[2])):
            print(f"deleted {folder}")
    except FtlibError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
