"""Findings of a Hugging Face token classifier, in batches, on a CPU or a GPU.

In: texts. Out: findings with offsets into them. A long text is read in overlapping windows. A word (a pre-token of the
tokenizer) has of each entity type the mean probability of its tokens, summed over the model's labels of that type and
their positions (B, I, E, S …); it is a finding from the threshold on, and neighbouring words of one type are one. So
a name is never cut inside a word, and a model's indecision between `first_name` and `last_name` costs nothing.

Batches have a fixed number of windows and a few lengths, filled up with padding: equal shapes run the same kernels, so
that what is found in a text does not depend on its neighbours. Scores are rounded to three digits for the same reason.
"""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import package_versions
from ftlib.text.pii.finding import Finding
from ftlib.text.pii.ner import tidy
from ftlib.text.pii.ner_labels import LabelMap, map_labels

_MAX_TOKENS = 512
_OVERLAP = 64
_LENGTHS = (32, 64, 128, 256, 512)
_WINDOWS = 8
_DIGITS = 3
Token = tuple[int, int, int]
"""Start, end and word of a token."""


def read_labels(model: str) -> list[str]:
    """The labels of a model, without loading it. Raises UserError when its configuration cannot be read."""
    folder = Path(model)
    try:
        if folder.is_dir():
            values = json.loads((folder / "config.json").read_text("utf-8"))
            return [str(label) for label in values.get("id2label", {}).values()]
        auto = importlib.import_module("transformers").AutoConfig
        return [str(label) for label in auto.from_pretrained(model).id2label.values()]
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise cannot_load(model, "transformers", error) from error


def cannot_load(model: str, engine: str, error: Exception) -> UserError:
    """One message for a model that cannot be had."""
    return UserError(
        f"pii.ner_model={model}: {engine} cannot load it ({' '.join(str(error).split())[:200]}); "
        "give a folder that all nodes see, or a Hugging Face id that they can fetch"
    )


class TokenClassifier:
    """A model with its tokenizer, loaded. Raises UserError when it cannot be loaded or has no fast tokenizer."""

    def __init__(self, model: str, own_labels: Mapping[str, str], threshold: float, *, gpu: bool) -> None:
        try:
            # By name: text works without PyTorch, which only this configuration needs.
            torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(model)
            loaded: Any = transformers.AutoModelForTokenClassification.from_pretrained(model)
        except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
            raise cannot_load(model, "transformers", error) from error
        if not tokenizer.is_fast:
            raise UserError(
                f"pii.ner_model={model}: its tokenizer gives no offsets; take a model with a fast tokenizer"
            )
        self._torch, self._tokenizer, self._threshold = torch, tokenizer, threshold
        self._device = "cuda" if gpu and torch.cuda.is_available() else "cpu"
        self._model = loaded.eval().to(self._device)
        labels = {int(place): str(label) for place, label in loaded.config.id2label.items()}
        self.labels: LabelMap = map_labels(labels.values(), own_labels)
        self._entities = sorted(self.labels.names)
        self._columns = [
            [place for place, label in labels.items() if self.labels.entities.get(label) == entity]
            for entity in self._entities
        ]
        limit = getattr(loaded.config, "max_position_embeddings", None) or _MAX_TOKENS
        self._max_tokens = min(_MAX_TOKENS, limit, tokenizer.model_max_length)
        self.version = f"{model} (transformers {package_versions(('transformers',))['transformers']})"

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Findings of each text, with offsets into it."""
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self._max_tokens,
            stride=min(_OVERLAP, self._max_tokens // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        tokens: list[dict[Token, np.ndarray]] = [{} for _ in texts]
        for window, values in self._scores(encoded["input_ids"]):
            seen = tokens[encoded["overflow_to_sample_mapping"][window]]
            places = zip(encoded["offset_mapping"][window], encoded.word_ids(window), values, strict=True)
            for (start, end), word, probabilities in places:
                if word is not None and end > start:
                    token = (start, end, word)
                    # Of two windows the one that is surer: at a window's edge a token lacks its neighbours.
                    seen[token] = np.maximum(seen[token], probabilities) if token in seen else probabilities
        return [self._findings(text, seen) for text, seen in zip(texts, tokens, strict=True)]

    def _scores(self, windows: Sequence[Sequence[int]]) -> Iterator[tuple[int, np.ndarray]]:
        """Number of each window and its probabilities, float [num_tokens, num_entities]."""
        by_length: dict[int, list[int]] = {}
        for number, ids in enumerate(windows):
            padded = next((length for length in _LENGTHS if len(ids) <= length), len(ids))
            by_length.setdefault(min(padded, self._max_tokens), []).append(number)
        for length, numbers in sorted(by_length.items()):
            for start in range(0, len(numbers), _WINDOWS):
                batch = numbers[start : start + _WINDOWS]
                values = self._forward([windows[number] for number in batch], length)
                yield from ((number, values[i, : len(windows[number])]) for i, number in enumerate(batch))

    def _forward(self, batch: Sequence[Sequence[int]], length: int) -> np.ndarray:
        torch = self._torch
        ids = np.full((_WINDOWS, length), self._tokenizer.pad_token_id or 0, dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, window in enumerate(batch):
            ids[row, : len(window)], mask[row, : len(window)] = window, 1
        mask[len(batch) :, 0] = 1  # a row without any token is not a number to some attention kernels
        with torch.inference_mode():
            inputs = {"input_ids": ids, "attention_mask": mask}
            logits = self._model(**{name: torch.from_numpy(value).to(self._device) for name, value in inputs.items()})
            probabilities = logits.logits.float().softmax(-1).cpu().numpy()
        sums = [probabilities[:, :, columns].sum(-1) for columns in self._columns]
        return np.stack(sums, axis=-1)

    def _findings(self, text: str, tokens: Mapping[Token, np.ndarray]) -> list[Finding]:
        words: dict[int, list[tuple[int, int, np.ndarray]]] = {}
        for (start, end, word), values in sorted(tokens.items(), key=lambda item: item[0]):
            words.setdefault(word, []).append((start, end, values))
        found: list[Finding] = []
        for parts in words.values():
            means = np.mean([values for _, _, values in parts], axis=0)
            best = int(np.argmax(means))
            score = round(float(means[best]), _DIGITS)
            if score < self._threshold:
                continue
            entity, start, end = self._entities[best], parts[0][0], parts[-1][1]
            last = found[-1] if found else None
            if last and last.entity == entity and not text[last.end : start].strip(" "):
                found[-1] = Finding(last.start, end, entity, max(last.score, score))
            else:
                found.append(Finding(start, end, entity, score))
        return list(tidy(text, found))
