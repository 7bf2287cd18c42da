"""Keys as they are stored and typed: one person under every storage type, nobody else; what is merely written alike."""

import csv
import decimal
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.config.erase import EraseConfig
from ftlib.config.loader import load_config
from ftlib.config.prepare import InputConfig
from ftlib.data import schema as s
from ftlib.data.erase import erase
from ftlib.data.inputs import find_inputs
from ftlib.data.near_keys import folded_key
from ftlib.data.person import read_person
from ftlib.data.plan import plan_reads
from ftlib.data.read import ReadSettings, read_records
from tests.prepared_case import KEY, everything_in, hashed, row, write_case


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_KEY", KEY.decode())
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))


def person(*words):
    return read_person(load_config(EraseConfig, None, [*words, "search.paths=[/d]"]), KEY)


def write_jsonl(path, value):
    path.write_text(json.dumps({"text": "one two three", "subject": value}) + "\n")


def write_csv(path, value):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["text", "subject"], ["one two three", value]])


def parquet(kind):
    def write(path, value):
        pq.write_table(pa.table({"text": ["one two three", "four"], "subject": pa.array([value, None], kind)}), path)

    return write


DICTIONARY = pa.dictionary(pa.int32(), pa.string())
STORED = [  # (file, how it is written, value)
    ("a.jsonl", write_jsonl, 4711),
    ("b.jsonl", write_jsonl, 4711.0),
    ("c.jsonl", write_jsonl, " 4711"),
    ("d.jsonl", write_jsonl, "4711.0 "),
    ("e.csv", write_csv, "4711"),
    ("f.csv", write_csv, " 4711 "),
    ("g.csv", write_csv, "4711.00"),
    ("h.parquet", parquet(pa.int64()), 4711),
    ("i.parquet", parquet(pa.float64()), 4711.0),
    ("j.parquet", parquet(pa.string()), "4711"),
    ("k.parquet", parquet(DICTIONARY), "4711\t"),
    ("l.parquet", parquet(pa.decimal128(12, 2)), decimal.Decimal("4711.00")),
    ("m.parquet", parquet(pa.int16()), 4711),
    ("n.parquet", parquet(pa.binary()), b"4711"),
]


def subjects_of(path):
    config = InputConfig(paths=[str(path)])
    tasks = plan_reads(find_inputs(config.paths), config, KEY)
    tables = [table for task in tasks for table in read_records(task, ReadSettings(config, KEY, 100))]
    return [value for table in tables for value in table[s.SUBJECT].to_pylist() if value]


@pytest.mark.parametrize(("name", "write", "value"), STORED, ids=[f"{name}-{value!r}" for name, _, value in STORED])
def test_every_storage_type_is_one_person(tmp_path, name, write, value):
    write(tmp_path / name, value)
    for typed in ("4711", "4711.0", " 4711", "4711 "):
        assert subjects_of(tmp_path / name) == sorted(person(f"subject={typed}").subjects)


@pytest.mark.parametrize("other", ["04711", "4711.5", "47110", "-4711", "4711-0", "4,711", "4711a", "٤٧١١", "4711 1"])
def test_other_keys_are_other_people(tmp_path, other):
    write_jsonl(tmp_path / "a.jsonl", other)
    assert subjects_of(tmp_path / "a.jsonl") != sorted(person("subject=4711").subjects)


@settings(deadline=None)
@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_what_is_read_from_a_record_is_what_the_command_line_finds(key):
    from ftlib.data.values import as_key
    from tests.prepared_case import hashed

    assert person(f"subject={key}").subjects == {hashed(as_key(key, ""))}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("K-0012", "k 12"),
        ("José", "Jose\u0301"),
        ("JOSE", "josé"),
        ("4711", "０４７１１"),
        ("4711", "٤٧١١"),
        ("K\u200b1", "k\u20131"),
        ("ann@example.org", "Ann+lists@Example.org"),
        ("0", "000"),
        ("Müller, Ann", "müller ann"),
        ("straße", "STRASSE"),
    ],
)
def test_spellings_that_fold_together(one, other):
    assert folded_key(one) == folded_key(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [("K-12", "K-13"), ("10", "1"), ("100", "10"), ("ann", "anna"), ("a@x.org", "a@y.org"), ("李", "王")],
)
def test_spellings_that_do_not(one, other):
    assert folded_key(one) != folded_key(other)


def run(folder, *words):
    return erase(load_config(EraseConfig, None, [*words, f"search.paths={json.dumps([str(folder)])}"]))


def test_rows_under_a_key_that_is_written_alike_stay_and_are_told_of(tmp_path, caplog):
    rows = [
        row("1", 0, "train", "K-0012", words="her own"),
        row("2", 1, "train", "k 12", words="his one"),
        row("3", 2, "dropped", "k 12", stage="filter", reason="too_short"),
        row("4", 3, "test", "K12 ", words="more"),
        row("5", 4, "test", "K13", words="others"),
    ]
    folder = write_case(tmp_path / "data", rows)
    result = run(tmp_path, "subject=K-0012")
    assert result["num_rows"] == 1
    near = {"path": str(folder), "num_rows": 3, "num_keys": 2, "places": {"dropped": 1, "test": 1, "train": 1}}
    assert result["near"] == [{**near, "num_ids": 0}]
    text = everything_in(tmp_path / result["datasets"][0]["new_path"])
    assert "her own" not in text and all(words in text for words in ("his one", "more", "others"))
    with pytest.raises(Exception, match="4 rows stand under keys that differ in case"):
        run(folder, "subject=k-12")
    assert run(folder, "ids=['01 ', 2]")["near"][0]["num_ids"] == 1


def test_a_dataset_of_an_older_version_is_searched_by_the_old_spellings_too(tmp_path):
    from ftlib.registry.manifest import hash_files

    old = s.LINEAGE.remove(s.LINEAGE.get_field_index(s.SUBJECT_FOLDED))
    rows = [row(str(n), n, "train", "x", words=f"says {n}") for n in range(4)]
    for item, spelling in zip(rows, ["4711", "4711.0", " 4711", "47110"], strict=True):
        item["subject"] = hashed(spelling)
    folder = write_case(tmp_path / "data", rows)
    lineage = pq.read_table(folder / "lineage.parquet").select(old.names)
    pq.write_table(lineage, folder / "lineage.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": hash_files(folder)}))
    result = run(folder, "subject= 4711")
    assert result["num_rows"] == 3 and result["near"][0]["num_rows"] is None
    assert "says 3" in everything_in(folder.parent / result["datasets"][0]["new_path"])


def test_raw_bytes_of_others_are_not_taken_for_the_persons(tmp_path):
    def broken(n, raw, subject=None):
        return row(f"q{n}", n, "quarantine", subject, error="bad_json", raw=raw)

    rows = [
        row("1", 0, "train", "4711", words="her own"),
        broken(1, b'{"subject": 4711, "text'),
        broken(2, b'{"subject": "4711.0'),
        broken(3, b'{"amount": 4711.50, '),
        broken(4, b'{"amount": 14711, "x": 1.4711, "y": "4711a"'),
        broken(5, b'{"text": "as 4711 said"', "other"),
        broken(6, b'{"subject": " 4711 ", '),
    ]
    folder = write_case(tmp_path / "data", rows)
    new = tmp_path / run(folder, "subject=4711")["datasets"][0]["new_path"]
    assert pq.read_table(new / "quarantine.parquet")["position"].to_pylist() == [3, 4, 5]
    rows = [row("1", 0, "train", "José", words="his"), *(broken(n, raw) for n, raw in enumerate(
        [b'{"s": "Jos\\u00E9"', 'Jose\u0301;x'.encode(), 'José María'.encode(), 'Josés'.encode()], 1))]  # fmt: skip
    folder = write_case(tmp_path / "more", rows)
    new = tmp_path / run(folder, "subject=Jose\u0301")["datasets"][0]["new_path"]
    assert pq.read_table(new / "quarantine.parquet")["position"].to_pylist() == [4]


def test_a_key_of_blanks_names_nobody(tmp_path):
    for words in (["subject=  "], ["ids=[' ']"]):
        with pytest.raises(Exception, match="names nobody"):
            person(*words)
