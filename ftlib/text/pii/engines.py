"""The NER models of a configuration: which there are, whether they can be had, and who reads a text of which language.

In: `pii.ner_engine` with its model, `pii.models` (language → model) and `pii.ner_engines`. Out: `NerEngines`. A text in
a known language is read by the models for that language alone: English models take words of other languages for names
and miss the names. A text of unknown language counts as one of `pii.language`. What any model finds is a finding.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ftlib.config.prepare import PiiConfig
from ftlib.core.errors import UserError
from ftlib.text.language import NO_LANGUAGE, UNKNOWN
from ftlib.text.pii.finding import Finding
from ftlib.text.pii.ner import SpacyNer, pipeline_labels, pipeline_version, resolve_pipeline
from ftlib.text.pii.ner_labels import LabelMap, gliner_labels, map_labels

_PACKAGES = {
    "gliner": ("gliner", "pip install 'ftlib[gliner]'"),
    "transformers": ("transformers", "pip install torch transformers"),
}
_MAX_NAMED = 20


class NameFinder(Protocol):
    """Finds personal values in texts."""

    version: str
    """The model and the version of what runs it, for the manifest."""

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Findings of each text, with offsets into it."""
        ...


@dataclass(frozen=True)
class NerModel:
    """One model of a configuration."""

    engine: str
    name: str
    """Package, folder or Hugging Face id."""
    languages: frozenset[str] | None
    """The languages that it reads; None: all."""
    own_labels: dict[str, str] = field(default_factory=dict)
    threshold: float = 0.5

    def reads(self, language: str) -> bool:
        """Whether texts in this language go to it."""
        return self.languages is None or language in self.languages

    @property
    def described(self) -> str:
        """Name and version without loading it: a part of the key of a job's work."""
        if self.engine == "spacy":
            return f"{self.name} {pipeline_version(self.name)}"
        return f"{self.engine} {self.name}"


def resolve_models(config: PiiConfig) -> list[NerModel]:
    """All models of a configuration, in a fixed order; empty where NER is off.

    Raises UserError when a package or a model is not there, with the command to install it, or when none of a model's
    labels is known.
    """
    wanted: list[tuple[str, str, frozenset[str] | None, dict[str, str], float]] = []
    if config.ner_engine != "none":
        for language in sorted({config.language, *config.models}):
            name = config.models.get(language, config.ner_model)
            wanted.append((config.ner_engine, name, frozenset([language]), {}, 0.5))
    for other in config.ner_engines:
        languages = frozenset(other.languages) or (frozenset([config.language]) if other.engine == "spacy" else None)
        wanted.append((other.engine, other.model, languages, other.labels, other.threshold))
    models: dict[tuple[str, str, float], NerModel] = {}
    for engine, name, languages, labels, threshold in wanted:
        found = _available(engine, name, min(languages or {config.language}))
        if found is None:
            continue
        own = {**config.ner_labels, **labels}
        known = models.get((engine, found, threshold))
        if known and known.own_labels == own:  # one model for several languages is loaded once
            both = None if known.languages is None or languages is None else known.languages | languages
            models[engine, found, threshold] = NerModel(engine, found, both, own, threshold)
        else:
            models[engine, found, threshold] = NerModel(engine, found, languages, own, threshold)
    for model in models.values():
        _check_labels(model)
    return list(models.values())


def _available(engine: str, name: str, language: str) -> str | None:
    """The model's name where it and its package are there; None for `none`."""
    if name == "none":
        return None
    if engine == "spacy":
        return resolve_pipeline(name, language)
    package, command = _PACKAGES[engine]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"pii.ner_engine={engine}: the package {package} is not installed. Install it with: {command}; "
            "or set pii.ner_engine=spacy"
        )
    if name == "auto":
        raise UserError(f"pii.ner_engine={engine}: name its model with pii.ner_model (a folder or a Hugging Face id)")
    if engine == "gliner":
        from ftlib.text.pii.gliner_model import check_folder

        check_folder(name)
    return name


def label_map(model: NerModel) -> LabelMap:
    """What a model's labels mean. Raises UserError when its configuration cannot be read."""
    if model.engine == "spacy":
        return map_labels(pipeline_labels(model.name), model.own_labels)
    if model.engine == "gliner":
        return LabelMap(gliner_labels(model.name, model.own_labels), ())
    from ftlib.text.pii.token_classifier import read_labels

    return map_labels(read_labels(model.name), model.own_labels)


def _check_labels(model: NerModel) -> None:
    mapped = label_map(model)
    if not mapped.entities:
        named = ", ".join(mapped.unmapped[:_MAX_NAMED]) or "none at all"
        raise UserError(
            f"pii.ner_model={model.name}: none of its labels is known ({named}), so nothing that it finds would be "
            "redacted; say what they mean with pii.ner_labels, for example {LABEL: PERSON}"
        )


def unmapped_labels(config: PiiConfig) -> dict[str, tuple[str, ...]]:
    """Model → its labels that mean nothing here; models of which all are known are left out."""
    found = {model.name: label_map(model).unmapped for model in resolve_models(config)}
    return {name: labels for name, labels in found.items() if labels}


def build_finder(model: NerModel, *, gpu: bool = False) -> NameFinder:
    """Load a model. Raises UserError when it cannot be loaded."""
    if model.engine == "spacy":
        return SpacyNer(model.name, dict(label_map(model).entities))
    # Loaded only where they are used: they import PyTorch.
    if model.engine == "gliner":
        from ftlib.text.pii.gliner_model import GlinerModel

        return GlinerModel(model.name, model.own_labels, model.threshold, gpu=gpu)
    from ftlib.text.pii.token_classifier import TokenClassifier

    return TokenClassifier(model.name, model.own_labels, model.threshold, gpu=gpu)


class NerEngines:
    """The loaded models of a configuration. Raises UserError as `resolve_models` and `build_finder` do."""

    def __init__(
        self,
        config: PiiConfig,
        models: Sequence[NerModel] | None = None,
        build: Callable[..., Any] = build_finder,
    ) -> None:
        """`models`: those to load; default: all of the configuration."""
        chosen = resolve_models(config) if models is None else models
        self._default = config.language
        self._finders = [(model, build(model, gpu=config.num_gpus > 0)) for model in chosen]

    def __bool__(self) -> bool:
        return bool(self._finders)

    @property
    def version(self) -> str:
        """All models with their versions; `none` without any."""
        return ", ".join(finder.version for _, finder in self._finders) or "none"

    def language(self, stated: str | None) -> str:
        """The language that a text counts as: an unknown one counts as `pii.language`."""
        return self._default if stated in (None, "", UNKNOWN) else str(stated)

    def reads(self, language: str) -> bool:
        """Whether any model reads texts in this language."""
        return language != NO_LANGUAGE and any(model.reads(language) for model, _ in self._finders)

    def find(self, texts: Sequence[str], language: str) -> list[list[Finding]]:
        """What any of the models for this language finds in each text."""
        found: list[list[Finding]] = [[] for _ in texts]
        for model, finder in self._finders:
            if texts and language != NO_LANGUAGE and model.reads(language):
                for own, items in zip(found, finder.find(texts), strict=True):
                    own.extend(items)
        return found


def described(config: PiiConfig) -> str:
    """Names and versions of all models, before any is loaded; `none` without any."""
    return ", ".join(model.described for model in resolve_models(config)) or "none"
