"""Opening a prepared dataset: the one way in for training and evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import fingerprint
from ftlib.core.storage import exists, filesystem, join
from ftlib.data.records import read_records_file
from ftlib.data.schema import RECORD, SPLITS
from ftlib.registry.manifest import listed_files, read_manifest, verify_files

KIND = "prepared"
SUCCESS = "_SUCCESS"
UNFINISHED = "_UNFINISHED"
"""Below a URI, where nothing can be renamed, while a job writes there."""


@dataclass(frozen=True)
class PreparedDataset:
    """A finished dataset."""

    path: str
    """Local folder or URI."""
    manifest: dict[str, Any]
    """Its manifest."""
    _verified: set[str] = field(default_factory=set, repr=False, compare=False)
    """Splits whose files were compared with the manifest."""

    def files(self, split: str) -> list[str]:
        """Paths of a split's Parquet files, in order, their content compared with the manifest once.

        Raises UserError for an unknown split, and for a file that was changed: what is learnt from it would be traced
        to data that it does not come from.
        """
        if split not in SPLITS:
            raise UserError(f"{self.path}: no split {split!r}; there are {', '.join(SPLITS)}")
        if split not in self._verified:
            verify_files(
                self.path, self.manifest, sorted(n for n in self.manifest["files"] if n.startswith(f"{split}/"))
            )
            self._verified.add(split)
        return [join(self.path, name) for name in sorted(self.manifest["files"]) if name.startswith(f"{split}/")]

    @property
    def training_key(self) -> str:
        """Hash of the files that a training reads: what runs are known to be trained on."""
        return training_key(self.manifest["files"])

    def num_rows(self, split: str) -> int:
        """Rows of a split."""
        return int(self.manifest["counts"]["splits"][split])

    def read(self, split: str) -> Any:
        """A `ray.data.Dataset` of canonical records."""
        import ray.data

        fs, inner = self._located(split)
        return ray.data.read_parquet(inner, filesystem=fs)

    def table(self, split: str) -> pa.Table:
        """The whole split as one Arrow table, in the order of the files."""
        fs, inner = self._located(split)
        return pa.concat_tables([RECORD.empty_table(), *(read_records_file(file, fs) for file in inner)])

    def rows(self, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Records of a split with these columns, one file in memory at a time, in the order of the files."""
        fs, inner = self._located(split)
        for file in inner:
            yield from read_records_file(file, fs, columns).to_pylist()

    def _located(self, split: str) -> tuple[Any, list[str]]:
        fs, _ = filesystem(self.path)
        return fs, [filesystem(file)[1] for file in self.files(split)]


def training_key(files: Mapping[str, str]) -> str:
    """Hash of the training and validation files among a manifest's `files`."""
    return fingerprint({name: digest for name, digest in files.items() if name.startswith(("train/", "val/"))})


def open_prepared(path: str) -> PreparedDataset:
    """Open a dataset; raises UserError when it is absent, unfinished or something else."""
    if not exists(path):
        raise UserError(f"{path}: no such prepared dataset; make one with python -m jobs.prepare")
    if not exists(join(path, SUCCESS)):
        raise UserError(f"{path}: not a finished prepared dataset (no {SUCCESS}); run python -m jobs.prepare again")
    dataset = PreparedDataset(path, read_manifest(path, KIND))
    listed_files(path, dataset.manifest)
    return dataset
