"""Finding input files: names that do not depend on the place, and one clear message for what is missing."""

import gzip

import pytest

from ftlib.core.errors import UserError
from ftlib.data.inputs import find_inputs, short_names

LINE = b'{"text": "a record"}\n'


def write(path, content=LINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def test_short_names_are_the_shortest_unique_suffixes():
    assert short_names(["/x/a/t.jsonl", "/x/b/t.jsonl", "/x/b/u.jsonl"]) == {
        "/x/a/t.jsonl": "a/t.jsonl",
        "/x/b/t.jsonl": "b/t.jsonl",
        "/x/b/u.jsonl": "u.jsonl",
    }
    assert short_names(["/t.jsonl", "/a/t.jsonl"])["/a/t.jsonl"] == "a/t.jsonl"


def test_sources_depend_neither_on_place_nor_on_order(tmp_path):
    for root in ("one", "elsewhere/two"):
        for name in ("2023/t.jsonl", "2024/t.jsonl", "notes.csv"):
            write(tmp_path / root / name)
    first = find_inputs([str(tmp_path / "one")])
    names = ["notes.csv", "2024/t.jsonl", "2023/t.jsonl"]
    second = find_inputs([str(tmp_path / "elsewhere/two" / name) for name in names])
    assert [(file.source, file.rank, file.format, file.fingerprint) for file in first] == [
        (file.source, file.rank, file.format, file.fingerprint) for file in second
    ]
    assert [file.source for file in first] == ["2023/t.jsonl", "2024/t.jsonl", "notes.csv"]


def test_folders_globs_and_files_name_a_file_once(tmp_path):
    path = write(tmp_path / "a.jsonl")
    write(tmp_path / "b.jsonl")
    write(tmp_path / "_SUCCESS")
    write(tmp_path / ".hidden" / "c.jsonl")
    write(tmp_path / "readme.md")
    found = find_inputs([str(tmp_path), str(tmp_path / "*.jsonl"), path])
    assert [file.source for file in found] == ["a.jsonl", "b.jsonl"]


def test_kind_by_content_where_the_name_says_nothing(tmp_path):
    jsonl, packed = write(tmp_path / "export"), write(tmp_path / "export2.gz", gzip.compress(LINE))
    assert [(file.format, file.compression) for file in find_inputs([jsonl, packed])] == [
        ("jsonl", ""),
        ("jsonl", "gz"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.jsonl", None, "no such file"),
        ("*.jsonl", None, "nothing matches"),
        ("empty.jsonl", b"", "empty"),
        ("picture.png", b"\x89PNG...", "unknown kind of file"),
        ("x.parquet.gz", gzip.compress(b"PAR1"), "Parquet compresses by itself"),
        ("torn.bin.gz", b"not gzip", "cannot be read"),
    ],
)
def test_bad_input(tmp_path, name, content, expected):
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(UserError, match=expected):
        find_inputs([str(tmp_path / name)])


def test_a_folder_without_data(tmp_path):
    write(tmp_path / "readme.md")
    with pytest.raises(UserError, match="no file of a supported kind"):
        find_inputs([str(tmp_path)])


def test_a_changed_file_has_another_fingerprint(tmp_path):
    path = write(tmp_path / "a.jsonl")
    before = find_inputs([path])[0].fingerprint
    write(tmp_path / "a.jsonl", LINE * 2)
    assert find_inputs([path])[0].fingerprint != before
