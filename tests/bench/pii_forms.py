"""Values in every form that people write them in, and ordinary texts that must stay as they are.

1. A grid: every type of value × neighbouring scripts × spellings (dashes, blanks, characters without width, full width)
   × places (plain text, metadata, JSON inside a text), through the redaction stage. A value counts as found when none
   of its letters and digits is left. Types by their label (a password, an employee's number) have the label beside
   them, in metadata as the key.
2. 300 ordinary texts of our own making (`ordinary_texts`), in English, German, French, Spanish and Dutch: the share of
   their words that is redacted. Plain Presidio looks at the same texts and at the grid's plain texts beside it.

    python -m tests.bench.pii_forms [--profile enterprise] [--no-peer] [--missed N]

The last line is JSON.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ftlib.config.prepare import PiiConfig
from tests.bench.ordinary_texts import ordinary_texts

SCRIPTS = {
    "accented latin": "é{}é", "cyrillic": "это{}да", "greek": "αυτό{}ναι", "arabic": "هو{}هنا", "hebrew": "זה{}כן",
    "devanagari": "यह{}है", "thai": "นี่{}ครับ", "han": "请看{}谢谢", "kana": "これは{}です", "hangul": "여기{}입니다",
    "georgian": "ეს{}არის", "armenian": "սա{}է",
}  # fmt: skip
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"
BLANKS = "\u00a0\u2002\u2009\u202f\u3000"
INVISIBLE = "\u200b\u00ad\u200d\ufeff"
# Entity, value, and the label that it needs: also its key in metadata and JSON.
VALUES = [
    ("CREDIT_CARD", "4539-5787-6362-1486", "card", False),
    ("CREDIT_CARD", "4539 5787 6362 1486", "card", False),
    ("US_SSN", "536-22-8741", "ssn", False),
    ("IBAN_CODE", "DE89 3704 0044 0532 0130 00", "iban", False),
    ("PHONE_NUMBER", "415-555-0132", "phone", False),
    ("PHONE_NUMBER", "+44 20 7946 0958", "phone", False),
    ("EMAIL_ADDRESS", "anna@firma-beispiel.de", "email", False),
    ("IP_ADDRESS", "203.0.113.77", "host", False),
    ("MAC_ADDRESS", "00:1B:44:11:3A:B7", "mac", False),
    ("URL", "https://portal.example.com/u/7788", "link", False),
    ("API_KEY", "sk_live_4f8Gh2Kd9Qw3Zx7Lp1Rt", "api_key", False),
    ("NATIONAL_ID", "756.9217.0769.85", "ahv", False),
    ("NATIONAL_ID", "12345678Z", "dni", False),
    ("NATIONAL_ID", "390.533.447-05", "cpf", False),
    ("DATE_TIME", "1984-03-12", "date", False),
    ("PASSWORD", "Sonne2024x", "password", True),
    ("PASSWORD", "47118", "pin", True),
    ("ACCOUNT_NUMBER", "60-83-71", "sort code", True),
    ("MEDICAL_RECORD_NUMBER", "8084988", "mrn", True),
    ("EMPLOYEE_ID", "44172", "employee id", True),
    ("PASSPORT", "X4829175", "passport number", True),
    ("INSURANCE_ID", "QX-1123-88", "policy number", True),
    ("USERNAME", "hvogel42", "username", True),
    ("DATE_OF_BIRTH", "12.03.1984", "date of birth", True),
    ("PERSON", "Maria Gonzalez", "name", False),
]
PLACES = ("text", "metadata", "json")
_KEY = b"a key for benchmarks only, 32 by"


def spellings(value: str) -> Iterator[tuple[str, str]]:
    """Name and form of each spelling of a value."""
    yield "plain", value
    for dash in DASHES if "-" in value else "":
        yield f"dash {ord(dash):04X}", value.replace("-", dash)
    for blank in BLANKS if " " in value else "":
        yield f"blank {ord(blank):04X}", value.replace(" ", blank)
    for mark in INVISIBLE:
        middle = len(value) // 2
        yield f"invisible {ord(mark):04X}", value[:middle] + mark + value[middle:]
        yield f"invisible {ord(mark):04X} throughout", mark.join(value)
    yield "full width", "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in value)
    digits = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
    if any(map(str.isdigit, value)) and not any(map(str.isalpha, value)):
        yield "arabic digits", value.translate(digits)


def grid(thin: int = 1) -> list[dict[str, Any]]:
    """Every cell of the grid as a record; `thin`: only every so manieth."""
    cells = []
    for entity, value, label, labelled in VALUES:
        for spelling, written in spellings(value):
            for script, frame in SCRIPTS.items():
                for place in PLACES:
                    stated = f"{label}: {written}" if labelled else written
                    inside = written if labelled else frame.format(written)
                    text, metadata = frame.format(stated), {}
                    if place == "metadata":
                        text, metadata = "nothing to see in here", {label.replace(" ", "_"): inside}
                    elif place == "json":
                        text = json.dumps({label.replace(" ", "_"): inside}, ensure_ascii=len(cells) % 2 == 0)
                    cells.append({"entity": entity, "written": written, "spelling": spelling, "script": script,
                                  "place": place, "text": text, "metadata": metadata})  # fmt: skip
    return cells[::thin]


def left(cell: dict[str, Any], text: str, metadata: str) -> bool:
    """Whether anything of a cell's value is still there: the letters and digits of any third of it in one piece."""
    from ftlib.text.pii.fold import folded

    haystack = re.sub(r"[^\w]|_", "", folded(text + " " + json.dumps(json.loads(metadata), ensure_ascii=False))).lower()
    haystack = haystack.replace("redacted", "|")
    value = re.sub(r"[^\w]|_", "", folded(cell["written"])).lower()
    size = max(4, len(value) // 3 + 1)
    return any(value[start : start + size] in haystack for start in range(len(value) - size + 1))


def redact(cells: Sequence[dict[str, Any]], profile: str) -> list[bool]:
    """Of each cell whether its value is gone, through the redaction stage."""
    import pyarrow as pa

    from ftlib.data import schema as s
    from ftlib.data.redact import Redactor

    records = [
        {s.ROW: row, s.DERIVED: True, s.ID: f"{row:08}", s.SOURCE: "grid", s.TEXT: cell["text"], s.WEIGHT: 1.0,
         s.METADATA: json.dumps(cell["metadata"], ensure_ascii=False)}
        for row, cell in enumerate(cells)
    ]  # fmt: skip
    redactor, gone = Redactor(PiiConfig(profile=profile), _KEY), []
    for start in range(0, len(records), 256):
        table = redactor(pa.Table.from_pylist(records[start : start + 256], schema=s.READ))
        rows = zip(cells[start : start + 256], table.column(s.TEXT), table.column(s.METADATA), strict=True)
        gone += [not left(cell, text.as_py() or "", metadata.as_py() or "{}") for cell, text, metadata in rows]
    return gone


def presidio() -> Any:
    """Plain Presidio on the same pipeline: spans of texts."""
    from tests.bench.pii_quality import presidio_finder

    return presidio_finder()


def words_lost(texts: Sequence[str], found: Sequence[Sequence[tuple[int, int]]]) -> tuple[int, int]:
    """Words of texts that a finding touches, and all words."""
    lost = total = 0
    for text, spans in zip(texts, found, strict=True):
        words = [match.span() for match in re.finditer(r"\w+", text)]
        total += len(words)
        lost += sum(any(start < to and at < end for start, end in spans) for at, to in words)
    return lost, total


def ordinary(profile: str) -> dict[str, Any]:
    """Words that the analyzer takes from ordinary texts, by kind; languages are told as the stage tells them."""
    from ftlib.text.language import confident_language
    from ftlib.text.pii import PiiAnalyzer

    analyzer = PiiAnalyzer(PiiConfig(profile=profile))
    by_kind, lost, total = {}, 0, 0
    for kind, texts in ordinary_texts().items():
        found = analyzer.analyze(texts, [confident_language(text) for text in texts])
        taken, words = words_lost(texts, [[(item.start, item.end) for item in items] for items in found])
        by_kind[kind] = [taken, words]
        lost, total = lost + taken, total + words
    return {"share": round(lost / total, 4), "by_kind": by_kind}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="enterprise", help="profile of the stage")
    parser.add_argument("--thin", type=int, default=1, help="only every so manieth cell of the grid")
    parser.add_argument("--missed", type=int, default=0, help="print so many of the cells that were missed")
    parser.add_argument("--no-peer", action="store_true", help="leave plain Presidio out")
    arguments = parser.parse_args()
    cells = grid(arguments.thin)
    gone = redact(cells, arguments.profile)
    missed = [cell for cell, is_gone in zip(cells, gone, strict=True) if not is_gone]
    for cell in missed[: arguments.missed]:
        print(
            "missed",
            cell["entity"],
            cell["spelling"],
            cell["script"],
            cell["place"],
            repr(cell["text"]),
            cell["metadata"],
        )
    results: dict[str, Any] = {
        "cells": len(cells),
        "found": round(sum(gone) / len(cells), 4),
        "found_by_place": {
            place: round(
                sum(g for c, g in zip(cells, gone, strict=True) if c["place"] == place)
                / sum(c["place"] == place for c in cells),
                4,
            )
            for place in PLACES
        },
        "missed_by_entity": dict(Counter(cell["entity"] for cell in missed)),
        "missed_by_script": dict(Counter(cell["script"] for cell in missed)),
        "missed_by_spelling": dict(Counter(cell["spelling"] for cell in missed).most_common(8)),
        "ordinary_words_lost": ordinary(arguments.profile),
    }
    print("ftlib", results, flush=True)
    if not arguments.no_peer:
        find = presidio()
        plain = [cell for cell in cells if cell["place"] == "text"][::7]
        hits = 0
        for cell, spans in zip(plain, find([cell["text"] for cell in plain]), strict=True):
            text = cell["text"]
            for start, end in sorted(spans, reverse=True):
                text = text[:start] + "[REDACTED]" + text[end:]
            hits += not left(cell, text, "{}")
        texts = [text for own in ordinary_texts().values() for text in own]
        lost, total = words_lost(texts, find(texts))
        results["presidio"] = {"found": round(hits / len(plain), 4), "ordinary_words_lost": round(lost / total, 4)}
        print("presidio", results["presidio"])
    print(json.dumps({"bench": "pii_forms", "profile": arguments.profile, **results}))


if __name__ == "__main__":
    main()
