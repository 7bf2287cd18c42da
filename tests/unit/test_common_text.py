"""Text that all records of a source share does not make them alike; copies among them are found all the same."""

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from ftlib.text.common import Parts
from ftlib.text.components import verify
from ftlib.text.counters import word_distance, word_sketches
from ftlib.text.keyed import KeyedHash
from ftlib.text.minhash import band_keys, choose_bands, shingle_words, signatures
from ftlib.text.symbols import Meanings
from ftlib.text.words import hash_words

HASHER = KeyedHash(b"k" * 32, "token")
CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "data"
NUM_TICKETS, NUM_COPIES, NGRAM = 300, 100, 5


def vocabulary(generator: random.Random, size: int = 60) -> list[str]:
    return ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(size)]


def kept_rows(texts: list[str], threshold: float = 0.8) -> list[int]:
    """Which texts of one source are kept, by the same steps as the job, without its exchanges."""
    tokens, bounds = hash_words(texts, HASHER)
    shingles = shingle_words(tokens, bounds, NGRAM)
    sketches = word_sketches(tokens, bounds, np.ones(len(texts), dtype=bool))
    values, counts = np.unique(shingles.values, return_counts=True)
    common = values[counts > len(texts) / 2]
    parts = Parts.of(shingles, common, np.full(len(texts), len(common)), sketches, NGRAM)
    whole = band_keys(signatures(shingles, 128), *choose_bands(threshold, 128))
    keys, offsets = parts.bands(whole, 128, "affine32")
    bands = [keys[offsets[i] : offsets[i + 1]] for i in range(len(texts))]
    meanings = Meanings.of(texts, KeyedHash(b"k" * 32, "symbols"))
    found = verify(shingles, bands, np.zeros(len(texts)), threshold, meanings=meanings, parts=parts)
    return np.flatnonzero(found.keeper == np.arange(len(texts))).tolist()


def substitute(words: list[str], place: int) -> list[str]:
    return [*words[:place], "changedword", *words[place + 1 :]]


def insert(words: list[str], place: int) -> list[str]:
    return [*words[:place], "changedword", *words[place:]]


def delete(words: list[str], place: int) -> list[str]:
    return [*words[:place], *words[place + 1 :]]


@pytest.mark.parametrize("edit", [substitute, insert, delete])
@pytest.mark.parametrize("where", ["before", "after", "around"])
@pytest.mark.parametrize("length", [14, 40, 120])
def test_different_tickets_under_one_instruction_stay_and_copies_go(edit, where, length):
    generator = random.Random(f"{edit.__name__} {where} {length}")
    known = vocabulary(generator)
    instruction = generator.choices(vocabulary(generator), k=160)
    cut = {"before": 160, "after": 0, "around": 80}[where]

    def record(ticket: list[str]) -> str:
        return " ".join([*instruction[:cut], *ticket, *instruction[cut:]])

    tickets = [generator.choices(known, k=length) for _ in range(NUM_TICKETS)]
    texts = [record(ticket) for ticket in tickets]
    copies = [record(edit(ticket, generator.randrange(length))) for ticket in tickets[:NUM_COPIES]]
    assert kept_rows([*texts, *copies]) == list(range(NUM_TICKETS))


def test_a_copy_with_an_edited_instruction_goes():
    generator = random.Random(5)
    known, instruction = vocabulary(generator), generator.choices(vocabulary(generator), k=160)
    tickets = [generator.choices(known, k=20) for _ in range(60)]
    texts = [" ".join([*instruction, *ticket]) for ticket in tickets]
    copies = [" ".join([*substitute(instruction, generator.randrange(160)), *ticket]) for ticket in tickets[:30]]
    assert kept_rows([*texts, *copies]) == list(range(60))


@pytest.mark.parametrize("edit", [substitute, insert, delete])
def test_copies_of_one_text_go_though_all_of_it_is_common(edit):
    generator = random.Random(6)
    text = generator.choices(vocabulary(generator), k=110)
    copies = [" ".join(edit(text, generator.randrange(5, 105))) for _ in range(30)]
    assert kept_rows([" ".join(text), *copies]) == [0]


def test_copies_of_one_text_go_beside_other_texts():
    generator = random.Random(7)
    known = vocabulary(generator, 500)
    text = generator.choices(known, k=110)
    copies = [" ".join(substitute(text, generator.randrange(110))) for _ in range(40)]
    others = [" ".join(generator.choices(known, k=50)) for _ in range(30)]
    assert kept_rows([" ".join(text), *copies, *others]) == [0, *range(41, 71)]


def test_tickets_that_differ_in_their_last_words_stay():
    generator = random.Random(10)
    known, instruction = vocabulary(generator, 200), generator.choices(vocabulary(generator), k=160)
    start = generator.choices(known, k=9)
    texts = [" ".join([*instruction, *start, *generator.choices(known, k=5)]) for _ in range(60)]
    starts = [" ".join([*instruction, *generator.choices(known, k=14)]) for _ in range(100)]
    assert kept_rows([*texts, *starts]) == list(range(160))


def test_word_distance_tells_one_edit_from_five():
    generator = random.Random(11)
    words = generator.choices(vocabulary(generator), k=170)
    texts = [words, substitute(words, 30), insert(words, 30), [*words[:-5], *"abcde"], [], words[:1]]
    tokens, bounds = hash_words([" ".join(text) for text in texts], HASHER)
    sketches = word_sketches(tokens, bounds, np.ones(len(texts), dtype=bool))
    distances = [word_distance(sketches[0], sketch) for sketch in sketches]
    assert distances[0] == 0 and distances[2] == 1 and 1.2 < distances[1] < 3
    assert 6 < distances[3] < 16 and distances[4] == float("inf") and distances[5] > 50
    alone, bounds = hash_words([" ".join(words)], HASHER)
    assert np.array_equal(word_sketches(alone, bounds, np.array([True]))[0], sketches[0])
    assert not word_sketches(alone, bounds, np.array([False])).any()


def test_a_form_whose_records_differ_in_one_word_stays():
    generator = random.Random(8)
    known, form = vocabulary(generator, 40), generator.choices(vocabulary(generator), k=80)
    texts = [" ".join([*form[:40], word, *form[40:]]) for word in dict.fromkeys(known)]
    assert kept_rows(texts) == list(range(len(texts)))


def test_a_form_of_many_values_stays_where_one_value_differs():
    generator = random.Random(9)
    names = vocabulary(generator, 10)
    rows = [[generator.randrange(100, 999) / 10 for _ in names] for _ in range(40)]
    rows += [[*row[:-1], row[-1] + 0.1] for row in rows[:20]]
    header = " ".join(generator.choices(vocabulary(generator), k=30))
    texts = [header + " " + " ".join(f"{name} of {v:.1f}" for name, v in zip(names, row, strict=True)) for row in rows]
    assert kept_rows(texts) == list(range(60))


def texts_of(name: str) -> list[str]:
    path = CASES / name
    if not path.exists():
        pytest.skip(f"no file at {path}")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        "\n".join(str(row[key]) for key in ("instruction", "input", "text", "output") if key in row) for row in rows
    ]


def test_reported_tickets_under_one_instruction_all_stay():
    texts = texts_of("19-shared-instruction-is-one-cluster/shared_instruction.jsonl.gz")
    assert len(kept_rows(texts)) == len(texts)


def test_reported_laboratory_values_all_stay():
    texts = texts_of("19-shared-instruction-is-one-cluster/lab_values.jsonl")
    assert len(kept_rows(texts)) == len(texts)


@pytest.mark.parametrize("name", ["zh_near.jsonl", "control_en_near.jsonl"])
def test_reported_copies_go(name):
    texts = texts_of(f"20-near-duplicates-in-cjk/{name}")
    assert len(kept_rows(texts)) <= 2
