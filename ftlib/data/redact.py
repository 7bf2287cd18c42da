"""Redaction as a stage: every text is scanned, findings are replaced, and what was not scanned is kept back.

In: tables of `schema.READ`. Out: `schema.PROCESSED`, the same rows in the same order. Scanned are `text`, every
message, `rejected`, and every string and long number in `metadata` (named by JSON pointer); an `id` that was given
becomes a keyed hash when a pattern finds PII in it. A record whose scan raises is emptied and marked for quarantine as
`redaction_failed`: redaction fails closed. Offsets are in characters of the original field.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from ftlib.config.prepare import PiiConfig
from ftlib.core.logging import get_logger
from ftlib.data import schema as s
from ftlib.data.shapes import LANGUAGE
from ftlib.data.sign import spoken
from ftlib.runtime.exchange import map_blocks
from ftlib.text.keyed import KeyedHash
from ftlib.text.language import detect_language

logger = get_logger(__name__)

REDACT, CONTAINS_PII, FAILED = "redact", "contains_pii", "redaction_failed"
GIVEN_ID = "given id"
"""Purpose of the keyed hash that stands for an id with PII."""
_LONG_NUMBER = 10**6
_PLAIN_ID, _PLAIN_ID_DIGITS = re.compile(r"[A-Za-z0-9_-]{1,16}"), 6
_CONTENT = (s.MESSAGES, s.TEXT, s.REJECTED, s.METADATA)


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
        if self._analyzer is None:
            # Patterns alone: a model of names takes many a ticket number for a name.
            config = self._config.model_copy(update={"ner_engine": "none"})
            self._analyzer = _analyzer_of_process(config.model_dump_json())
        return self._analyzer


@lru_cache(maxsize=2)
def _analyzer_of_process(config: str) -> Any:
    """One for all tasks that a worker process runs."""
    from ftlib.text.pii.analyzer import PiiAnalyzer

    return PiiAnalyzer(PiiConfig.model_validate_json(config))


def store_ids(blocks: Sequence[Any], config: PiiConfig, key: bytes) -> list[Any]:
    """References of `dedup.DECISION` tables with both ids as they are stored."""

    def run(tables: list[pa.Table]) -> pa.Table:
        table, scanner = pa.concat_tables(tables), IdScanner(config, key)
        for name, derived in ((s.ID, s.DERIVED), (s.KEEPER_ID, s.KEEPER_DERIVED)):
            ids = scanner.stored(table[name].to_pylist(), table[derived].to_pylist())
            table = table.set_column(table.column_names.index(name), name, pa.array(ids, pa.string()))
        return table

    return map_blocks(blocks, run)


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
        patterns_alone = self._analyzer is not None and not self._analyzer.uses_ner
        self._ids = IdScanner(config, key, self._analyzer if patterns_alone else None)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Redact one table."""
        records = table.to_pylist()
        for record in records:
            record.update({s.STAGE: None, s.REASON: None, s.FINDINGS: []})
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
            metadata = [json.loads(record[s.METADATA] or "{}") for record in records]
            fields = [list(scanned_fields(record, value)) for record, value in zip(records, metadata, strict=True)]
            languages = [self._language(record, value) for record, value in zip(records, metadata, strict=True)]
            texts = [text for record_fields in fields for _, text in record_fields]
            each = [own for own, record_fields in zip(languages, fields, strict=True) for _ in record_fields]
            found = iter(self._analyzer.analyze(texts, each))
            changes = [
                self._change(record_fields, [next(found) for _ in record_fields], record[s.SUBJECT] or "")
                for record, record_fields in zip(records, fields, strict=True)
            ]
        except Exception as error:
            if len(records) > 1:
                for record in records:
                    self._redact([record])
                return
            # Never the message: it may quote the text.
            logger.warning("a record could not be scanned (%s): it goes to quarantine", type(error).__name__)
            _fail(records[0])
            return
        for record, value, change in zip(records, metadata, changes, strict=True):
            texts_of, findings = change
            record[s.FINDINGS] = findings
            if findings and self._replacer is None:
                record.update({s.STAGE: REDACT, s.REASON: CONTAINS_PII, **dict.fromkeys(_CONTENT)})
            elif findings:
                _store(record, value, texts_of)

    def _language(self, record: dict[str, Any], metadata: Any) -> str:
        """Which of `pii.models` a record is for: what it says of itself, else what its words say."""
        if not self._config.models:
            return self._config.language
        stated = metadata.get(LANGUAGE) if isinstance(metadata, dict) else None
        if isinstance(stated, str) and stated:
            return stated.lower().replace("_", "-").split("-")[0]
        return detect_language("\n".join(spoken(record)))

    def _change(
        self, fields: list[tuple[str, str]], found: list[list[Any]], subject: str
    ) -> tuple[dict[str, str], list[dict[str, Any]]]:
        """New text by field, and the findings of one record."""
        pairs = [(text, findings) for (_, text), findings in zip(fields, found, strict=True)]
        if self._replacer is None:
            changed = [(text, [""] * len(findings)) for text, findings in pairs]
        else:
            changed = self._replacer.replace_record(pairs, subject)
        texts: dict[str, str] = {}
        rows: list[dict[str, Any]] = []
        for (name, _), (_, findings), (new, replacements) in zip(fields, pairs, changed, strict=True):
            if findings:
                texts[name] = new
            rows += [
                {
                    "field": name,
                    "start": finding.start,
                    "end": finding.end,
                    "entity": finding.entity,
                    "score": finding.score,
                    "replacement": replacement,
                }
                for finding, replacement in zip(findings, replacements, strict=True)
            ]
        return texts, rows


def redactor_class(config: PiiConfig, key: bytes) -> type[Redactor]:
    """A `Redactor` that needs no arguments: Ray Data exports those of an operator as metadata, a key among them."""

    class KeyedRedactor(Redactor):
        def __init__(self) -> None:
            super().__init__(config, key)

    return KeyedRedactor


def _fail(record: dict[str, Any]) -> None:
    record.update({**dict.fromkeys(_CONTENT), s.LABEL: None, s.ERROR: FAILED, s.FINDINGS: [], s.STAGE: None})


def scanned_fields(record: dict[str, Any], metadata: Any) -> Iterator[tuple[str, str]]:
    """Name and content of every field that is scanned."""
    for i, message in enumerate(record[s.MESSAGES] or ()):
        if message["content"] is not None:
            yield f"messages[{i}].content", message["content"]
    for name in (s.TEXT, s.REJECTED):
        if record[name] is not None:
            yield name, record[name]
    for pointer, text in _leaves(metadata, ""):
        yield s.METADATA + pointer, text


def _leaves(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    """JSON pointer (RFC 6901) and text of every string, and of every number long enough to be an identifier."""
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) >= _LONG_NUMBER:
        yield pointer, str(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{pointer}/{_escape(key)}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{pointer}/{i}")


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _store(record: dict[str, Any], metadata: Any, texts: dict[str, str]) -> None:
    for i, message in enumerate(record[s.MESSAGES] or ()):
        message["content"] = texts.get(f"messages[{i}].content", message["content"])
    for name in (s.TEXT, s.REJECTED):
        record[name] = texts.get(name, record[name])
    record[s.METADATA] = json.dumps(_replace(metadata, "", texts), ensure_ascii=False)


def _replace(value: Any, pointer: str, texts: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, f"{pointer}/{_escape(key)}", texts) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, f"{pointer}/{i}", texts) for i, item in enumerate(value)]
    return texts.get(s.METADATA + pointer, value)
