"""Names of input files without the people in them: `Jane_Roe_123-45-6789.jsonl` is stored as `source_9f….jsonl`.

In: the input's files and what the configuration says of sources and labels. Out: the same, with every part of a name
that identifies someone replaced by a keyed hash, the same one in every run under one key. It happens before anything
is planned, so that records, lineage, quarantine, reports, manifests and logs have one name for a file and none of them
has the person's. What is read are still the files themselves.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ftlib.config.prepare import MixConfig, PiiConfig, PrepareConfig
from ftlib.core.logging import get_logger
from ftlib.data.inputs import InputFile
from ftlib.data.redact import NameScanner
from ftlib.data.scanned import FILE_ENDING

logger = get_logger(__name__)

# Machines number and hash the files that they write: these kinds are found in `part-00000-5f3a….parquet`.
_OF_MACHINES = frozenset({"API_KEY", "DEVICE_ID", "CRYPTO", "MAC_ADDRESS", "IP_ADDRESS", "PASSWORD", "ID_NUMBER"})


class SourceNames:
    """What is stored for the name of a file or folder."""

    def __init__(self, config: PiiConfig, key: bytes) -> None:
        self._scanner, self._active = NameScanner(config, key), config.profile != "none"

    def stored(self, name: str) -> str:
        """A source, path or URI, with each part that identifies someone replaced."""
        return "/".join(self._part(part) for part in name.split("/")) if self._active else name

    def _part(self, name: str) -> str:
        if self._scanner.is_plain(name):
            return name  # without loading the patterns, which takes a second
        ending = FILE_ENDING.search(name)
        stem = name[: ending.start()] if ending else name
        if not any(map(str.isalnum, stem)):
            return name
        found = [
            item
            for item in self._scanner.places(stem)
            if item.entity not in _OF_MACHINES and not (stem[item.start : item.end].isdigit())
        ]
        for item in reversed(found):
            stem = (
                f"{stem[: item.start]}{self._scanner.hashed('source', stem[item.start : item.end])}{stem[item.end :]}"
            )
        return stem + (ending[0] if ending else "")

    def files(self, files: Sequence[InputFile]) -> list[InputFile]:
        """The files under their stored names, sorted and numbered by them."""
        named = [replace(file, source=self.stored(file.source)) for file in files]
        changed = sum(old.source != new.source for old, new in zip(files, named, strict=True))
        if changed:
            logger.warning("%d input files name a person: a keyed hash stands for that part of their names", changed)
        named.sort(key=lambda file: file.source)
        return [replace(file, rank=rank) for rank, file in enumerate(named)]

    def mix(self, config: MixConfig) -> MixConfig:
        """`mix` with sources and labels as they are stored: a user knows them as they were."""
        labels = config.weights_by == "label"
        weights = {(self._label(name) if labels else self.stored(name)): n for name, n in config.weights.items()}
        sources = [self.stored(name) for name in config.synthetic_sources]
        return config.model_copy(update={"weights": weights, "synthetic_sources": sources})

    def _label(self, name: str) -> str:
        return self._scanner.name("label", "", name) or name

    def resolved(self, config: PrepareConfig) -> dict[str, Any]:
        """The configuration for the manifest: paths are named as sources are."""
        values = config.resolved()
        for section, name in (("input", "paths"), ("dedup", "against"), ("decontaminate", "paths")):
            values[section][name] = [self.stored(path) for path in values[section][name]]
        return values
