"""Redaction as a stage: every text is scanned, findings are replaced, and what was not scanned is kept back.

In: tables of `schema.READ`. Out: `schema.PROCESSED`, the same rows in the same order. Scanned is all that
`data.scanned` names: texts, messages with their reasoning, tool calls and results, tool definitions, metadata with its
keys, and the label. An `id`, label, key or name in which a pattern finds someone becomes a keyed hash, the same one for
the same value. A record whose scan raises is emptied and marked for quarantine as `redaction_failed`: redaction fails
closed. A record in a language that no NER model reads has rules alone; it is counted, or quarantined as `no_ner`.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from ftlib.config.prepare import PiiConfig
from ftlib.core.logging import get_logger
from ftlib.data import schema as s
from ftlib.data.scanned import Field, Name, fields_of
from ftlib.data.shapes import LANGUAGE
from ftlib.data.sign import spoken
from ftlib.runtime.exchange import map_blocks
from ftlib.text.keyed import KeyedHash
from ftlib.text.language import NO_LANGUAGE, confident_language
from ftlib.text.pii.finding import Finding, merge_findings
from ftlib.text.pii.keys import entity_of, words_of

logger = get_logger(__name__)

REDACT, CONTAINS_PII, FAILED = "redact", "contains_pii", "redaction_failed"
NO_NER = "no_ner"
GIVEN_ID, STORED_NAME = "given id", "stored name"
"""Purposes of the keyed hashes that stand for an id, and for a label, a key or a name with PII."""
_PLAIN_ID, _PLAIN_ID_DIGITS = re.compile(r"[A-Za-z0-9_-]{1,16}"), 6
_PLAIN_NAME = re.compile(r"[a-z0-9_.-]{1,64}")
_LANGUAGE_CODE = re.compile(r"([A-Za-z]{2,3})(?:[-_].*)?")
_CONTENT = (s.MESSAGES, s.TEXT, s.REJECTED, s.METADATA, s.TOOLS)
# In a label, a key or a file's name these are no person: `Germany`, `2024-01-31`, `Acme`.
_NOBODY = frozenset(
    {"LOCATION", "ORGANIZATION", "DATE_TIME", "AGE", "ZIP_CODE", "URL", "COORDINATES", "STREET_ADDRESS"}
)
_SURE_PERSON = 0.7
"""Score of a person's name with a further one: `Max` alone is a word of labels and keys."""
_MAX_REMEMBERED = 1 << 16


class IdScanner:
    """Decides under which id a record is stored."""

    def __init__(self, config: PiiConfig, key: bytes, analyzer: Any = None) -> None:
        """`analyzer`: one without NER, where there is one already."""
        self._config, self._hash = config, KeyedHash(key, GIVEN_ID)
        self._analyzer = analyzer

    def stored(self, ids: Sequence[str], derived: Sequence[bool]) -> list[str]:
        """The ids as they are stored: a keyed hash where one was given and holds PII, else unchanged."""
        given = sorted({id_ for id_, made in zip(ids, derived, strict=True) if not made and not self._plain(id_)})
        if self._config.profile == "none" or not given:
            return list(ids)
        try:
            private = [id_ for id_, found in zip(given, self._load().analyze(given), strict=True) if found]
        except Exception as error:  # an id that was not scanned is not stored
            logger.warning("ids could not be scanned (%s): all of the batch are hashed", type(error).__name__)
            private = given
        hashed = {id_: self._hash.hex(id_.encode()) for id_ in private}
        return [id_ if made else hashed.get(id_, id_) for id_, made in zip(ids, derived, strict=True)]

    def _plain(self, id_: str) -> bool:
        """Whether an id is too short and simple for any pattern but the user's own: most are, and need no analyzer."""
        if self._config.patterns or self._config.deny_list:
            return False
        return bool(_PLAIN_ID.fullmatch(id_)) and sum(map(str.isdigit, id_)) <= _PLAIN_ID_DIGITS

    def _load(self) -> Any:
        """The analyzer, of patterns alone."""
        if self._analyzer is None:
            # Patterns alone: a model of names takes many a ticket number for a name.
            config = self._config.model_copy(update={"ner_engine": "none", "ner_engines": []})
            self._analyzer = _analyzer_of_process(config.model_dump_json())
        return self._analyzer


class NameScanner(IdScanner):
    """Decides under which name a label, a key of metadata, a function or a participant is stored.

    The answer depends on the name alone, so that it is the same in every record and file: by patterns (numbers, mail
    addresses, a given name with a further name), not by a model, which takes many a label for a name.
    """

    def __init__(self, config: PiiConfig, key: bytes, analyzer: Any = None) -> None:
        super().__init__(config, key, analyzer)
        self._hash = KeyedHash(key, STORED_NAME)
        self._known: dict[tuple[str, str, str], str | None] = {}

    def name(self, kind: str, cue: str, value: str) -> str | None:
        """What is stored instead of a name; None where it is nobody's.

        Args:
            kind: `label`, `key`, `call` or `name`: what the hash is put behind.
            cue: Words that tell what the name is of, such as `user name`.
            value: The name.
        """
        if self._config.profile == "none" or not value or (not cue and self.is_plain(value)):
            return None
        known = (kind, cue, value)
        if known not in self._known:
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            found = bool(self.places(value)) or (bool(cue) and self._told(cue, value))
            self._known[known] = self.hashed(kind, value) if found else None
        return self._known[known]

    def hashed(self, kind: str, value: str) -> str:
        """What stands for a name that is someone's."""
        return f"{kind}_{self._hash.hex(value.encode('utf-8', 'surrogatepass'))}"

    def labels(self, values: Sequence[str | None]) -> list[str | None]:
        """Labels as they are stored."""
        return [value if value is None else self.name("label", "", value) or value for value in values]

    def places(self, value: str) -> list[Finding]:
        """What identifies someone in a name, read as it stands and as words (`Jane_Roe`), with offsets into it."""
        analyzer = self._load()
        readings = list(dict.fromkeys([value, re.sub(r"[_+]|%20", " ", value), re.sub(r"[_+.-]|%20", " ", value)]))
        same_length = [reading for reading in readings if len(reading) == len(value)]
        found = [item for items in analyzer.analyze(same_length) for item in items]
        if len(value) > 1 and not found:
            whole = Finding(0, len(value), "PERSON", _SURE_PERSON)
            found = [whole for items in analyzer.analyze([words_of(value)]) for item in items if _someone(item)][:1]
        return merge_findings(item for item in found if _someone(item))

    def _told(self, cue: str, value: str) -> bool:
        entity = entity_of(cue, value)
        return entity is not None and entity in self._load().entities

    def is_plain(self, value: str) -> bool:
        """Whether a name is too simple for any pattern but the user's own."""
        if self._config.patterns or self._config.deny_list:
            return False
        return bool(_PLAIN_NAME.fullmatch(value)) and sum(map(str.isdigit, value)) <= _PLAIN_ID_DIGITS


def _someone(item: Finding) -> bool:
    return item.entity not in _NOBODY and (item.entity != "PERSON" or item.score >= _SURE_PERSON)


@lru_cache(maxsize=2)
def _analyzer_of_process(config: str) -> Any:
    """One for all tasks that a worker process runs."""
    from ftlib.text.pii.analyzer import PiiAnalyzer

    return PiiAnalyzer(PiiConfig.model_validate_json(config))


def store_ids(blocks: Sequence[Any], config: PiiConfig, key: bytes) -> list[Any]:
    """References of `dedup.DECISION` tables with both ids and the label as they are stored."""

    def run(tables: list[pa.Table]) -> pa.Table:
        table, scanner = pa.concat_tables(tables), IdScanner(config, key)
        for name, derived in ((s.ID, s.DERIVED), (s.KEEPER_ID, s.KEEPER_DERIVED)):
            ids = scanner.stored(table[name].to_pylist(), table[derived].to_pylist())
            table = table.set_column(table.column_names.index(name), name, pa.array(ids, pa.string()))
        labels = NameScanner(config, key).labels(table[s.LABEL].to_pylist())
        return table.set_column(table.column_names.index(s.LABEL), s.LABEL, pa.array(labels, pa.string()))

    return map_blocks(blocks, run)


def store_labels(
    counts: Sequence[Counter[tuple[str, ...]]], config: PiiConfig, key: bytes
) -> list[Counter[tuple[str, ...]]]:
    """Counters by labels, with the labels as they are stored."""
    names = NameScanner(config, key)
    found: list[Counter[tuple[str, ...]]] = []
    for counter in counts:
        stored: Counter[tuple[str, ...]] = Counter()
        for labels, n in counter.items():
            stored[tuple(sorted(label or "" for label in names.labels(labels)))] += n
        found.append(stored)
    return found


class Redactor:
    """One scanning process: holds the analyzer, so build it once in an actor."""

    def __init__(self, config: PiiConfig, key: bytes) -> None:
        self._config = config
        self._analyzer: Any = None
        self._replacer: Any = None
        if config.profile != "none":
            from ftlib.text.pii import Replacer
            from ftlib.text.pii.analyzer import PiiAnalyzer

            self._analyzer = PiiAnalyzer(config)
            if config.replacement != "drop":
                self._replacer = Replacer(config.replacement, key)
        patterns = self._analyzer if self._analyzer is not None and not self._analyzer.uses_ner else None
        self._ids = IdScanner(config, key, patterns)
        self._names = NameScanner(config, key, patterns)
        self._wants_ner = False
        if self._analyzer is not None:
            from ftlib.text.pii.profiles import needs_ner

            self._wants_ner = needs_ner(config, self._analyzer.entities)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Redact one table."""
        records = table.to_pylist()
        for record in records:
            record.update({s.STAGE: None, s.REASON: None, s.FINDINGS: [], s.NO_NER: None})
        if self._analyzer is not None:
            good = [record for record in records if record[s.ERROR] is None]
            for start in range(0, len(good), self._config.batch_size):
                self._redact(good[start : start + self._config.batch_size])
            ids = self._ids.stored([record[s.ID] for record in good], [record[s.DERIVED] for record in good])
            for record, stored in zip(good, ids, strict=True):
                record[s.ID] = stored
        return pa.Table.from_pylist(records, schema=s.PROCESSED)

    def _redact(self, records: list[dict[str, Any]]) -> None:
        try:
            languages = [self._language(record) for record in records]
            found = [fields_of(record) for record in records]
            self._find(found, languages)
            changes = [
                self._change(*places, record[s.SUBJECT] or "") for record, places in zip(records, found, strict=True)
            ]
        except Exception as error:
            if len(records) > 1:
                for record in records:
                    self._redact([record])
                return
            # Never the message: it may quote the text.
            logger.warning("a record could not be scanned (%s): it goes to quarantine", type(error).__name__)
            _fail(records[0], FAILED)
            return
        for record, findings, language, places in zip(records, changes, languages, found, strict=True):
            record[s.FINDINGS] = findings
            # Only now: the records of a batch that failed are scanned again as they were.
            for item in places[0]:
                item.apply()
            for name in places[1]:
                name.apply()
            if self._wants_ner and not self._analyzer.reads(language):
                record[s.NO_NER] = language
                if self._config.require_ner:
                    _fail(record, NO_NER)
                    continue
            if findings and self._replacer is None:
                record.update({s.STAGE: REDACT, s.REASON: CONTAINS_PII, **dict.fromkeys((*_CONTENT, s.LABEL))})

    def _find(self, found: Sequence[tuple[list[Field], list[Name]]], languages: Sequence[str]) -> None:
        """Scan the parts of all fields; their findings are put into them."""
        parts = [
            (part, NO_LANGUAGE if part.is_number else language)
            for (fields, _), language in zip(found, languages, strict=True)
            for item in fields
            for part in item.all_parts()
        ]
        strings = [(string, language) for part, language in parts for string in part.strings()]
        findings = iter(self._analyzer.analyze(*map(list, zip(*strings, strict=True))) if strings else ())
        for part, _ in parts:
            part.take([next(findings) for _ in part.strings()], self._analyzer.accepts)
        for fields, _ in found:
            for item in fields:
                item.settle()

    def _language(self, record: dict[str, Any]) -> str:
        """Which NER models and regions a record is for: what it says of itself, else what its words say for sure."""
        metadata = json.loads(record[s.METADATA] or "{}")
        stated = metadata.get(LANGUAGE) if isinstance(metadata, dict) else None
        if isinstance(stated, str) and (code := _LANGUAGE_CODE.fullmatch(stated.strip())):
            return code[1].lower()
        return confident_language("\n".join(spoken(record)))

    def _change(self, fields: list[Field], names: list[Name], subject: str) -> list[dict[str, Any]]:
        """Replace what was found in one record; its findings."""
        pairs = [(part.text, part.findings) for item in fields for part in item.all_parts()]
        if self._replacer is None:
            replaced = [(text, [""] * len(findings)) for text, findings in pairs]
        else:
            replaced = self._replacer.replace_record(pairs, subject)
        replacements = (new for _, new in replaced)
        rows: list[dict[str, Any]] = []
        for item in fields:
            rows += item.change(replacements, self._names.name)
        for name in names:
            rows += name.change(self._names.name)
        return rows


def redactor_class(config: PiiConfig, key: bytes) -> type[Redactor]:
    """A `Redactor` that needs no arguments: Ray Data exports those of an operator as metadata, a key among them."""

    class KeyedRedactor(Redactor):
        def __init__(self) -> None:
            super().__init__(config, key)

    return KeyedRedactor


def _fail(record: dict[str, Any], error: str) -> None:
    record.update({**dict.fromkeys(_CONTENT), s.LABEL: None, s.ERROR: error, s.FINDINGS: [], s.STAGE: None})
