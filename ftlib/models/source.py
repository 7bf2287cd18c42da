"""From a model source to a local folder that is safe to load.

A source is `embedded:NAME`, a local folder, an fsspec URI, or a Hugging Face id. What comes out is a folder with
`config.json`, `*.safetensors` and a tokenizer, and with no code to run: pickled weights and `auto_map` are refused.
Nothing is fetched when the files are here already.

    python -m ftlib.models.source SOURCE      prints the folder
"""

import os
import sys
from pathlib import Path
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import fingerprint
from ftlib.core.logging import get_logger, setup_logging
from ftlib.core.storage import atomic_dir, filesystem, is_uri, local_path, read_json, state_home
from ftlib.models.embedded import embedded_model, file_lock

logger = get_logger(__name__)

_FILES = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "tokenizer*",
    "*.model",
    "merges.txt",
    "LICENSE*",
]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def resolve_source(source: str, revision: str | None = None) -> Path:
    """The local folder of a model source.

    Args:
        source: `embedded:NAME`, a folder, a URI or a Hugging Face id.
        revision: git revision of a Hugging Face id.

    Raises:
        UserError: nothing is there, or what is there has no safetensors, or brings its own code.
    """
    if source.startswith("embedded:"):
        return embedded_model(source.removeprefix("embedded:"))
    if is_uri(source):
        return _from_uri(source)
    folder = local_path(source)
    if folder.is_dir():
        return check_model_folder(folder.absolute())
    if os.path.isabs(folder) or source.startswith((".", "~")) or source.count("/") > 1:
        raise UserError(f"model source {source}: no such folder")
    return _from_hub(source, revision)


def check_model_folder(folder: Path) -> Path:
    """The folder itself if it holds a whole model; raises UserError saying what it lacks."""
    read_config(folder)
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        found = f" (only pickled files: {', '.join(pickles[:3])}; convert them)" if pickles else ""
        raise UserError(f"model folder {folder}: no weights in *.safetensors{found}")
    tokenizer_config = folder / "tokenizer_config.json"
    if tokenizer_config.exists() and read_json(str(tokenizer_config)).get("auto_map"):
        raise UserError(f"model folder {folder}: its tokenizer brings its own code (auto_map), which is never run")
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        raise UserError(f"model folder {folder}: no tokenizer (tokenizer.json)")
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """A model's config.json; raises UserError when it is absent or brings its own code."""
    path = folder / "config.json"
    if not path.exists():
        adapter = (folder / "adapter_config.json").exists()
        hint = "; this is an adapter: name its base as the source" if adapter else ""
        raise UserError(f"model folder {folder}: no config.json{hint}")
    config: dict[str, Any] = read_json(str(path))
    if config.get("auto_map"):
        raise UserError(f"model folder {folder}: its config brings its own code (auto_map), which is never run")
    return config


def _from_uri(uri: str) -> Path:
    """A copy of a remote folder in the cache, one for each address: a changed model needs a changed address."""
    folder = state_home() / "models" / f"uri-{fingerprint(uri)}"
    if not folder.exists():
        with file_lock(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                fs, inner = filesystem(uri)
                if not fs.exists(inner):
                    raise UserError(f"model source {uri}: nothing there")
                logger.info("copying %s to the cache", uri)
                with atomic_dir(str(folder)) as target:
                    fs.get(inner.rstrip("/") + "/", f"{target}/", recursive=True)
                    check_model_folder(target)
    return check_model_folder(folder)


def _from_hub(name: str, revision: str | None) -> Path:
    """A hub model out of the local hub cache, else downloaded unless `HF_HUB_OFFLINE` is set."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    options: dict[str, Any] = {"revision": revision, "allow_patterns": _FILES}
    try:
        return check_model_folder(Path(snapshot_download(name, local_files_only=True, **options)))
    except HFValidationError:
        raise UserError(f"model source {name}: no such folder, and not a Hugging Face id") from None
    except (LocalEntryNotFoundError, UserError):
        logger.info("%s is not in the hub cache yet: downloading", name)
    try:
        return check_model_folder(Path(snapshot_download(name, **options)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"model source {name}: no such folder, not in the hub cache, and the hub did not give it "
            f"({type(error).__name__}). Give a local folder or embedded:smollm2-135m"
        ) from None


def main() -> None:
    """Print the folder of the source named on the command line; exit 2 with the reason when there is none."""
    setup_logging()
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m ftlib.models.source SOURCE")
    try:
        print(resolve_source(sys.argv[1]))
    except UserError as error:
        logger.error("%s", error)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
