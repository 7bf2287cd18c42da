"""A seeded corpus of customer-support tickets with everything a real export suffers from, and the truth about it.

`write_sample` writes into a folder:

- `tickets.jsonl`: `{"id", "input": ticket, "output": "category: …\\npriority: …\\nqueue: …", "label": category,
  "subject": customer key, "metadata": {…}}`, with personal data, exact and near duplicates, contradictory labels, and
  empty and broken lines among the good ones;
- `truth.json`: every planted value with its kind, field and character offsets, the groups of duplicates, the
  contradictions and the broken lines, by id and line number (from 0).

`score_prepared` compares a prepared dataset with the truth.

    python -m ftlib.data.sample --out FOLDER [--rows 3000] [--seed 7]
    python -m ftlib.data.sample score --truth FOLDER/truth.json --dataset PREPARED
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ftlib.core.errors import UserError
from ftlib.core.storage import write_bytes, write_json
from ftlib.data import sample_phrases as phrases
from ftlib.data.sample_values import VALUE_MAKERS, Values

OVERSIZED_LINE_BYTES = 80_000
NGRAM = 5
_PII_SHARE = 0.7
_FACT_SHARE = 0.5
_DUPLICATE_SHARE = 0.06
_CONTRADICTION_SHARE = 0.01
_MAX_CHANCE_JACCARD = 0.5
_MIN_NEAR_JACCARD = 0.9
# Words that a near-duplicate changes.
_SWAPS = {
    "my": "the", "the": "your", "that": "which", "for": "about", "very": "really", "is": "was", "on": "upon",
    "and": "but", "not": "never", "this": "it", "to": "towards", "it": "that", "hi,": "hey,", "thanks.": "thx.",
}  # fmt: skip


@dataclass(frozen=True)
class Ticket:
    """A ticket as pieces of text; a piece with a kind is a planted value."""

    pieces: tuple[tuple[str, str | None], ...]
    category: str
    priority: str
    queue: str
    subject: str
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The ticket's text."""
        return "".join(piece for piece, _ in self.pieces)

    @property
    def output(self) -> str:
        """The answer to learn."""
        return f"category: {self.category}\npriority: {self.priority}\nqueue: {self.queue}"

    def planted(self) -> list[dict[str, Any]]:
        """The planted values with their offsets in the text."""
        found, position = [], 0
        for piece, kind in self.pieces:
            if kind:
                found.append({"entity": kind, "value": piece, "field": "input", "start": position,
                              "end": position + len(piece)})  # fmt: skip
            position += len(piece)
        return found


def queue_of(category: str, priority: str) -> str:
    """The queue of a ticket: its category's, the on-call one when it is urgent."""
    return phrases.QUEUE_OF[category] + (phrases.ON_CALL_SUFFIX if priority == "high" else "")


def word_shingles(text: str, n: int = NGRAM) -> frozenset[tuple[str, ...]]:
    """The set of word n-grams of the lower-cased text; a shorter text is one shingle."""
    words = text.lower().split()
    return frozenset(tuple(words[i : i + n]) for i in range(max(len(words) - n + 1, 1)))


def jaccard(first: frozenset[tuple[str, ...]], second: frozenset[tuple[str, ...]]) -> float:
    """Size of the intersection over size of the union."""
    return len(first & second) / len(first | second)


class _Distinct:
    """Keeps tickets that are unlike all before them, so that every near-duplicate in the corpus is a planted one."""

    def __init__(self) -> None:
        self._sets: list[frozenset[tuple[str, ...]]] = []
        self._index: dict[tuple[str, ...], list[int]] = {}

    def add(self, text: str) -> bool:
        """Add a text unless a known one is too like it."""
        shingles = word_shingles(text)
        shared: dict[int, int] = {}
        for shingle in shingles:
            for number in self._index.get(shingle, ()):
                shared[number] = shared.get(number, 0) + 1
        for number, common in shared.items():
            if common / (len(shingles) + len(self._sets[number]) - common) >= _MAX_CHANCE_JACCARD:
                return False
        for shingle in shingles:
            self._index.setdefault(shingle, []).append(len(self._sets))
        self._sets.append(shingles)
        return True


class _Writer:
    """Makes tickets from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.values = Values(seed)
        self._seen = _Distinct()

    def fill(self, phrase: str) -> str:
        """A phrase with its slots filled."""
        slots = {name: self.random.choice(values) for name, values in phrases.SLOTS.items()}
        return phrase.format(
            amount=f"${self.random.randint(5, 480)}.{self.random.choice(('00', '50', '90', '99'))}",
            days=self.random.randint(3, 29), count=self.random.randint(2, 9), staff=self.random.randint(12, 400),
            code=f"E{self.random.randint(10, 99)}", **slots,
        )  # fmt: skip

    def ticket(self, *, long: bool = False) -> Ticket:
        """A ticket unlike all that were made before."""
        while True:
            ticket = self._draw(long)
            if self._seen.add(ticket.text):
                return ticket

    def _draw(self, long: bool) -> Ticket:
        rng = self.random
        category, priority = rng.choice(sorted(phrases.PROBLEMS)), rng.choice(sorted(phrases.URGENCY))
        body: list[list[tuple[str, str | None]]] = [
            [(self.fill(rng.choice(phrases.PROBLEMS[category])), None)],
            [(rng.choice(phrases.URGENCY[priority]), None)],
        ]
        if rng.random() < _FACT_SHARE:
            body.append([(self.fill(rng.choice(phrases.CUSTOMER_FACTS)), None)])
        rng.shuffle(body)
        if long:
            body += [[(text, None)] for text in rng.sample(phrases.ELABORATIONS, 1)]
        has_pii = rng.random() < _PII_SHARE
        if has_pii:
            kinds = rng.sample(sorted(VALUE_MAKERS), rng.choices((1, 2), (5, 1))[0])
            body += [self._pii_sentence(kind) for kind in kinds]
        greeting = rng.choice(phrases.GREETINGS)
        pieces: list[tuple[str, str | None]] = [(f"{greeting} ", None)] if greeting else []
        for sentence in body:
            pieces += [*sentence, (" ", None)]
        if has_pii and rng.random() < 0.2:
            pieces += [(f"{rng.choice(phrases.CLOSINGS)}\n", None), (self.values.make("PERSON", rng), "PERSON")]
        else:
            pieces += [(rng.choice(phrases.FAREWELLS), None)]
        return Ticket(
            _tidy(pieces), category, priority, queue_of(category, priority), f"C-{rng.randint(10_000, 99_999)}",
            {"channel": rng.choice(("web", "email", "chat")), "language": "en"},
        )  # fmt: skip

    def _pii_sentence(self, kind: str) -> list[tuple[str, str | None]]:
        before, after = self.random.choice(phrases.PII_SENTENCES[kind]).split("{}")
        return [(before, None), (self.values.make(kind, self.random), kind), (after, None)]


def _tidy(pieces: list[tuple[str, str | None]]) -> tuple[tuple[str, str | None], ...]:
    """Pieces without empty ones, and without white space at the end."""
    kept = [piece for piece in pieces if piece[0]]
    while kept and kept[-1][1] is None and not kept[-1][0].strip():
        kept.pop()
    if kept and kept[-1][1] is None:
        kept[-1] = (kept[-1][0].rstrip(), None)
    return tuple(kept)


def exact_copy(ticket: Ticket, rng: random.Random) -> Ticket:
    """The same ticket; half of the copies differ in letter case or white space of the unplanted text."""
    kind = rng.random()
    if kind < 0.5:
        return ticket
    if kind < 0.75:
        pieces = tuple((text if label else text.upper(), label) for text, label in ticket.pieces)
    else:
        pieces = tuple((text if label else text.replace(" ", "  ", 1), label) for text, label in ticket.pieces)
        pieces = (*pieces, (" \n", None))
    return replace(ticket, pieces=pieces)


def near_copy(ticket: Ticket, rng: random.Random) -> Ticket:
    """The ticket with one or two unplanted words changed, at a word-5-gram Jaccard of at least 0.9."""
    original = word_shingles(ticket.text)
    places = [(i, j) for i, (text, label) in enumerate(ticket.pieces) if label is None
              for j, word in enumerate(text.split(" ")) if word.lower() in _SWAPS]  # fmt: skip
    candidates: list[Ticket] = []
    for i, j in places:
        words = ticket.pieces[i][0].split(" ")
        words[j] = _SWAPS[words[j].lower()]
        pieces = (*ticket.pieces[:i], (" ".join(words), None), *ticket.pieces[i + 1 :])
        copy = replace(ticket, pieces=pieces)
        if _MIN_NEAR_JACCARD <= jaccard(original, word_shingles(copy.text)) < 1:
            candidates.append(copy)
    added = rng.choice(("Bye.", "Over to you.", "All the best."))
    candidates.append(replace(ticket, pieces=(*ticket.pieces, (f" {added}", None))))
    return rng.choice(candidates)


def contradiction(ticket: Ticket, rng: random.Random) -> Ticket:
    """The same text under another category."""
    category = rng.choice([name for name in sorted(phrases.QUEUE_OF) if name != ticket.category])
    return replace(ticket, category=category, queue=queue_of(category, ticket.priority))


def _broken_lines(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Lines that must not get through: kind and bytes, without the line end."""
    good = {"output": "category: billing\npriority: low\nqueue: finance", "label": "billing"}
    for number in range(3):
        yield "bad_json", f'{{"id": "b-json-{number}", "input": "cut off in the mid'.encode()
        yield "bad_utf8", b'{"id": "b-utf8-' + str(number).encode() + b'", "input": "caf\xe9 \xff\xfe", "output": "x"}'
        yield "null_text", json.dumps({"id": f"b-null-{number}", "input": None, **good}).encode()
        yield "empty_text", json.dumps({"id": f"b-empty-{number}", "input": " " * number, **good}).encode()
    yield "nested_junk", json.dumps({"id": "b-nest-0", "input": {"deep": [[{"a": None}]]}, **good}).encode()
    yield "nested_junk", b'[1, [2, [3, {"x": []}]]]'
    yield "not_an_object", b"42"
    words = " ".join(rng.choice(("lorem", "ipsum", "dolor", "sit")) for _ in range(OVERSIZED_LINE_BYTES // 5))
    yield "oversized", json.dumps({"id": "b-big-0", "input": words, **good}).encode()


@dataclass
class _Corpus:
    """Tickets in the order of their ids, and what was planted among them."""

    tickets: list[Ticket]
    groups: dict[str, list[list[str]]]


def _make_corpus(num_rows: int, seed: int) -> _Corpus:
    writer = _Writer(seed)
    rng = writer.random
    num_copies = round(num_rows * _DUPLICATE_SHARE)
    num_contradictions = max(round(num_rows * _CONTRADICTION_SHARE / 2), 1)
    num_base = num_rows - 2 * num_copies - num_contradictions
    tickets = [writer.ticket(long=number < num_copies) for number in range(num_base)]
    spare = rng.sample(range(num_copies, num_base), num_copies + num_contradictions)
    plans = [("near_duplicates", number, near_copy) for number in range(num_copies)]
    plans += [("exact_duplicates", number, exact_copy) for number in spare[:num_copies]]
    plans += [("contradictions", number, contradiction) for number in spare[num_copies:]]
    groups: dict[str, list[list[str]]] = {"exact_duplicates": [], "near_duplicates": [], "contradictions": []}
    for kind, number, make in plans:
        groups[kind].append([_id(number), _id(len(tickets))])
        tickets.append(make(tickets[number], rng))
    return _Corpus(tickets, groups)


def _id(number: int) -> str:
    return f"t{number:06d}"


def write_sample(folder: str | Path, num_rows: int = 3000, seed: int = 7) -> dict[str, Any]:
    """Write `tickets.jsonl` and `truth.json`; returns the truth's counts. The same seed gives the same bytes."""
    corpus = _make_corpus(num_rows, seed)
    lines: list[tuple[str | None, str, bytes]] = []
    for number, ticket in enumerate(corpus.tickets):
        record = {"id": _id(number), "input": ticket.text, "output": ticket.output, "label": ticket.category,
                  "subject": ticket.subject, "metadata": ticket.metadata}  # fmt: skip
        lines.append((_id(number), "", json.dumps(record, ensure_ascii=False).encode()))
    rng = random.Random(seed + 1)
    lines += [(None, kind, line) for kind, line in _broken_lines(rng)]
    rng.shuffle(lines)
    line_of = {name: position for position, (name, _, _) in enumerate(lines) if name}
    pii = {
        _id(number): {"line": line_of[_id(number)], "values": planted}
        for number, ticket in enumerate(corpus.tickets)
        if (planted := ticket.planted())
    }
    groups = {
        kind: [{"ids": ids, "lines": [line_of[name] for name in ids]} for ids in found]
        for kind, found in corpus.groups.items()
    }
    broken = [{"line": position, "kind": kind} for position, (name, kind, _) in enumerate(lines) if not name]
    truth = {"seed": seed, "num_lines": len(lines), "num_rows": num_rows, "pii": pii, **groups, "broken": broken}
    write_bytes(str(Path(folder) / "tickets.jsonl"), b"\n".join(line for _, _, line in lines) + b"\n")
    write_json(str(Path(folder) / "truth.json"), truth)
    return {
        "num_lines": len(lines),
        "num_pii_values": sum(len(ticket.planted()) for ticket in corpus.tickets),
        **{kind: len(found) for kind, found in groups.items()},
        "broken": len(broken),
    }


def main() -> None:
    """Command line: write the sample, or `score` a prepared dataset against it."""
    parser = argparse.ArgumentParser(description="Sample tickets with planted faults, and scores against them.")
    parser.add_argument("--out", help="folder for tickets.jsonl and truth.json")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=7)
    commands = parser.add_subparsers(dest="command")
    score = commands.add_parser("score", help="shares of planted PII and duplicates found, as JSON")
    score.add_argument("--truth", required=True)
    score.add_argument("--dataset", required=True)
    arguments = parser.parse_args()
    if arguments.command != "score" and not arguments.out:
        parser.error("--out is needed")
    try:
        if arguments.command == "score":
            from ftlib.data.sample_score import score_prepared

            result = score_prepared(arguments.truth, arguments.dataset)
        else:
            result = write_sample(arguments.out, arguments.rows, arguments.seed)
    except UserError as error:
        parser.exit(error.exit_code, f"{error}\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
