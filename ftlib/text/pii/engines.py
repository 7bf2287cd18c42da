"""The engine that finds names in texts of one language: a spaCy pipeline, or one of Presidio's model recognizers.

In: `pii.ner_engine` and a model's name. Out: a `NameFinder`, or None where NER is off. GLiNER and Hugging Face models
run through Presidio's own recognizers, which load the libraries; what they find passes the same test of plausibility
as a spaCy pipeline's.
"""

import importlib.util
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from ftlib.config.prepare import PiiConfig
from ftlib.core.errors import UserError
from ftlib.core.fingerprints import package_versions
from ftlib.text.pii.finding import Finding
from ftlib.text.pii.ner import SpacyNer, plausible, resolve_pipeline

_ENTITIES = ("PERSON", "LOCATION", "ORGANIZATION")
_PACKAGES = {
    "gliner": ("gliner", "pip install 'ftlib[gliner]'"),
    "transformers": ("transformers", "pip install torch transformers"),
}
_GLINER_LABELS = {
    "person": "PERSON", "name": "PERSON", "location": "LOCATION", "city": "LOCATION", "country": "LOCATION",
    "organization": "ORGANIZATION", "company": "ORGANIZATION",
}  # fmt: skip


class NameFinder(Protocol):
    """Finds names, places and organisations."""

    version: str
    """The model and the version of what runs it, for the manifest."""

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Findings of each text, with offsets into it."""
        ...


def resolve_engine(config: PiiConfig, language: str) -> str | None:
    """The model that `build_engine` would load for a language; None where NER is off.

    Raises UserError when the engine's package or the model is not there, with the command to install it.
    """
    model = config.models.get(language, config.ner_model)
    if config.ner_engine == "none" or model == "none":
        return None
    if config.ner_engine == "spacy":
        return resolve_pipeline(model, language)
    package, command = _PACKAGES[config.ner_engine]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"pii.ner_engine={config.ner_engine}: the package {package} is not installed. Install it with: {command}; "
            "or set pii.ner_engine=spacy"
        )
    if model == "auto":
        raise UserError(
            f"pii.ner_engine={config.ner_engine}: name its model with pii.ner_model (a folder or a Hugging Face id)"
        )
    return model


def build_engine(config: PiiConfig, language: str) -> NameFinder | None:
    """The engine for a language, loaded; None where NER is off. Raises UserError when it cannot be loaded."""
    model = resolve_engine(config, language)
    if model is None:
        return None
    if config.ner_engine == "spacy":
        return SpacyNer(model)
    return ModelNer(config.ner_engine, model, language)


class ModelNer:
    """One of Presidio's model recognizers, which load their model when they are made; texts go through one by one."""

    def __init__(self, engine: str, model: str, language: str) -> None:
        try:
            self._recognizer = _recognizer(engine, model, language)
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            raise UserError(
                f"pii.ner_model={model}: {engine} cannot load it ({' '.join(str(error).split())[:200]}); "
                "give a folder that all nodes see, or a Hugging Face id that they can fetch"
            ) from error
        package, _ = _PACKAGES[engine]
        self.version = f"{model} ({package} {package_versions((package,))[package]})"

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Findings of each text, with offsets into it."""
        return [self._find(text) for text in texts]

    def _find(self, text: str) -> list[Finding]:
        return [
            Finding(item.start, item.end, item.entity_type, round(float(item.score), 4))
            for item in self._recognizer.analyze(text, list(_ENTITIES))
            if item.entity_type in _ENTITIES and plausible(item.entity_type, text[item.start : item.end])
        ]


def _recognizer(engine: str, model: str, language: str) -> Any:
    from ftlib.text.pii.presidio import model_recognizer

    # A model that cannot be loaded would be logged with its traceback; the caller says it in one line.
    logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL)
    if engine == "gliner":
        kind = model_recognizer("gliner_recognizer", "GLiNERRecognizer")
        return kind(model_name=model, supported_language=language, entity_mapping=_GLINER_LABELS)
    kind = model_recognizer("huggingface_ner_recognizer", "HuggingFaceNerRecognizer")
    return kind(model_name=model, supported_language=language, supported_entities=list(_ENTITIES), device="cpu")
