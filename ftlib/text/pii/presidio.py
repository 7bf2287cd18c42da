"""Presidio's names, imported without PyTorch and transformers: they are two thirds of a worker's start, seven seconds.

Presidio and spaCy import both where they are installed, whatever is asked of them. Only Presidio's model recognizers
need them (`model_recognizer`), and spaCy's transformer pipelines, whose packages keep PyTorch visible.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRANSFORMER_PIPELINES = ("spacy_transformers", "spacy_curated_transformers")


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Let imports of packages fail that are not imported yet."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


_torch = () if any(map(importlib.util.find_spec, _TRANSFORMER_PIPELINES)) else ("torch",)
with _hidden("transformers", *_torch):
    from presidio_analyzer import (
        AnalyzerEngine,
        EntityRecognizer,
        LocalRecognizer,
        RecognizerRegistry,
        RecognizerResult,
        predefined_recognizers,
    )
    from presidio_analyzer.nlp_engine import NlpEngineProvider, SpacyNlpEngine

__all__ = [
    "AnalyzerEngine",
    "EntityRecognizer",
    "LocalRecognizer",
    "NlpEngineProvider",
    "RecognizerRegistry",
    "RecognizerResult",
    "SpacyNlpEngine",
    "model_recognizer",
    "predefined_recognizers",
]


def model_recognizer(module: str, name: str) -> Any:
    """A class of `predefined_recognizers.ner.MODULE`, with the packages that it needs imported."""
    found = importlib.import_module(f"presidio_analyzer.predefined_recognizers.ner.{module}")
    return getattr(importlib.reload(found), name)
