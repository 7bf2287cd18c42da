"""The adapters that came while serving: a folder that all gateways and replicas reach.

A record for each, written when all checks are passed. A replica that starts later, or one that is asked for an adapter
that it lacks, takes it from there.
"""

from contextlib import suppress
from pathlib import Path

from ftlib.core.errors import UserError
from ftlib.core.storage import exists, join, read_json, write_json
from ftlib.models.adapt import check_adapter, fetch_adapter, locate_adapter
from ftlib.models.fingerprint import model_fingerprint
from serve_apps.args import AdapterArgs


class AdapterShelf:
    """Records of adapters by name."""

    def __init__(self, folder: Path, base: Path) -> None:
        """`base`: the folder of the model that they must fit."""
        self._folder, self._base = folder, base

    def check(self, name: str, path: str, sha256: str | None) -> AdapterArgs:
        """Fetch and check an adapter: content, base, shapes and rank, tokenizer, chat template. Raises UserError."""
        from ftlib.core.fingerprints import folder_sha256
        from ftlib.models.chat import render_prompt
        from ftlib.models.load import load_tokenizer

        manifest = join(locate_adapter(path).removesuffix("/adapter"), "manifest.json")
        base = read_json(manifest).get("base") if exists(manifest) else None
        if base and base.get("fingerprint") not in (None, model_fingerprint(self._base)):
            raise UserError(f"{path}: an adapter of another base: {base.get('source')}")
        folder = fetch_adapter(path, sha256)
        found = folder_sha256(folder)
        if sha256 not in (None, found):
            raise UserError(f"{path}: the files there are not those expected (sha256 {found[:12]}…)")
        check_adapter(folder, self._base)
        if (folder / "tokenizer_config.json").exists():
            own, base_vocabulary = load_tokenizer(folder), load_tokenizer(self._base).get_vocab()
            vocabulary = own.get_vocab()
            if any(vocabulary.get(token) != number for token, number in base_vocabulary.items()):
                raise UserError(f"{path}: its tokenizer is not the base's")
            if own.chat_template is not None:
                render_prompt(own, [{"role": "user", "content": "x"}])
        return AdapterArgs(name=name, path=path, sha256=found)

    def put(self, adapter: AdapterArgs) -> None:
        """Write the record."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(str(self._folder / f"{adapter.name}.json"), adapter.model_dump())

    def remove(self, name: str) -> None:
        """Forget an adapter; unknown names are ignored."""
        (self._folder / f"{name}.json").unlink(missing_ok=True)

    def all(self) -> dict[str, AdapterArgs]:
        """The adapters by name."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            with suppress(UserError, OSError, ValueError):  # removed this moment
                adapter = AdapterArgs.model_validate(read_json(str(path)))
                found[adapter.name] = adapter
        return found
