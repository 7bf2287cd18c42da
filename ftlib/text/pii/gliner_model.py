"""Findings of a GLiNER model, which is told the labels to look for, in batches.

In: texts. Out: findings with offsets into them. A model reads some 384 words and leaves out the rest without a word,
so long texts are cut into overlapping pieces at white space; of findings of two pieces that overlap the union is taken
where findings are merged.
"""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import package_versions
from ftlib.text.pii.finding import Finding
from ftlib.text.pii.ner import tidy
from ftlib.text.pii.ner_labels import gliner_labels
from ftlib.text.pii.token_classifier import cannot_load

_WORD = re.compile(r"\w+|[^\w\s]")
_PIECE_WORDS, _OVERLAP_WORDS = 256, 48
_BATCH_SIZE = 8
_DIGITS = 3


def check_folder(model: str) -> None:
    """Raise UserError where a folder holds no GLiNER model."""
    if Path(model).is_dir() and not (Path(model) / "gliner_config.json").is_file():
        raise UserError(f"pii.ner_model={model}: no gliner_config.json in this folder, so it holds no GLiNER model")


class GlinerModel:
    """A model, loaded. Raises UserError when it cannot be loaded."""

    def __init__(self, model: str, own_labels: Mapping[str, str], threshold: float, *, gpu: bool) -> None:
        self._threshold = threshold
        self._entities = gliner_labels(model, own_labels)
        try:
            package: Any = importlib.import_module("gliner")
            device = "cuda" if gpu and importlib.import_module("torch").cuda.is_available() else "cpu"
            self._model = package.GLiNER.from_pretrained(model, map_location=device)
        except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
            raise cannot_load(model, "gliner", error) from error
        self.version = f"{model} (gliner {package_versions(('gliner',))['gliner']})"

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Findings of each text, with offsets into it."""
        places = [(number, start, end) for number, text in enumerate(texts) for start, end in pieces(text)]
        found: list[list[Finding]] = [[] for _ in texts]
        if not places:
            return found
        answers = self._model.inference(
            [texts[number][start:end] for number, start, end in places],
            list(self._entities),
            threshold=self._threshold,
            batch_size=_BATCH_SIZE,
        )
        for (number, start, _), items in zip(places, answers, strict=True):
            for item in items:
                entity = self._entities.get(item["label"])
                if entity is not None:
                    score = round(float(item["score"]), _DIGITS)
                    found[number].append(Finding(start + item["start"], start + item["end"], entity, score))
        return [list(tidy(text, sorted(set(items)))) for text, items in zip(texts, found, strict=True)]


def pieces(text: str) -> Iterator[tuple[int, int]]:
    """Overlapping parts of a text of at most so many words that a model reads all of each."""
    words = [match.span() for match in _WORD.finditer(text)]
    for first in range(0, len(words), _PIECE_WORDS - _OVERLAP_WORDS):
        last = min(first + _PIECE_WORDS, len(words)) - 1
        yield words[first][0], words[last][1]
        if last == len(words) - 1:
            return
