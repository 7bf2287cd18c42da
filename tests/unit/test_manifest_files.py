"""Files that a manifest names stay inside its folder and are what was written: data from elsewhere is not trusted."""

import json
import os

import pyarrow.parquet as pq
import pytest

from ftlib.config.erase import EraseConfig
from ftlib.config.loader import load_config
from ftlib.core.errors import UserError
from ftlib.data.erase import erase
from ftlib.data.prepared import open_prepared
from tests.prepared_case import KEY, row, write_case


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FTLIB_KEY", KEY.decode())
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path / "home"))


@pytest.fixture
def dataset(tmp_path):
    rows = [row(str(n), n, "train", "ann" if n < 2 else "bob", words=f"says {n}") for n in range(4)]
    return write_case(tmp_path / "data" / "set", rows)


def edit(dataset, change):
    path = dataset / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def run(*paths, **more):
    words = [f"{key}={value}" for key, value in more.items()]
    return erase(
        load_config(EraseConfig, None, ["subject=ann", f"search.paths={json.dumps([*map(str, paths)])}", *words])
    )


@pytest.mark.parametrize(
    "name",
    [
        "train/../../ESCAPED.parquet",
        "/tmp/ESCAPED.parquet",
        "train/../../../x",
        "..",
        "",
        "train\\..\\x",
        "train/a\nb",
        "train/\0",
    ],
)
def test_a_name_that_leaves_the_folder_is_refused(dataset, tmp_path, name):
    (tmp_path / "data" / "ESCAPED.parquet").write_bytes(b"theirs")
    edit(dataset, lambda manifest: manifest["files"].update({name: "0" * 64}))
    with pytest.raises(UserError, match="outside of its folder"):
        open_prepared(str(dataset))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="outside of its folder"):
        run(dataset)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("of", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused(dataset, tmp_path, of):
    (tmp_path / "secret").mkdir()
    source = dataset / "train" / "part-00000.parquet" if of == "file" else dataset / "train"
    source.rename(tmp_path / "secret" / source.name)
    source.symlink_to(tmp_path / "secret" / source.name)
    with pytest.raises(UserError, match="is a link out of the folder"):
        open_prepared(str(dataset))


def test_a_link_to_the_whole_dataset_is_followed(dataset, tmp_path):
    (tmp_path / "link").symlink_to(dataset)
    assert open_prepared(str(tmp_path / "link")).table("train").num_rows == 4


def test_a_changed_or_missing_file_is_not_read(dataset):
    path = dataset / "train" / "part-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, compression="gzip")
    for read in (lambda d: d.table("train"), lambda d: list(d.rows("train", ["id"])), lambda d: d.files("train")):
        with pytest.raises(UserError, match=r"train/part-00001\.parquet: was changed after it was written"):
            read(open_prepared(str(dataset)))
    assert open_prepared(str(dataset)).table("val").num_rows == 0
    with pytest.raises(UserError, match="was changed after it was written"):
        run(dataset)
    path.unlink()
    with pytest.raises(UserError, match=r"train/part-00001\.parquet: is missing"):
        open_prepared(str(dataset)).files("train")
    assert not list(dataset.parent.glob("*erased*"))


def test_lineage_that_hides_somebody_is_not_believed(dataset, tmp_path):
    other = write_case(tmp_path / "data" / "other", [row("9", 9, "train", "ann", words="x")])
    lineage = pq.read_table(dataset / "lineage.parquet")
    pq.write_table(lineage.slice(2), dataset / "lineage.parquet")
    result = run(dataset, other)
    assert [entry["path"] for entry in result["datasets"]] == [str(other)]
    (skipped,) = result["unsearchable"]
    assert skipped["path"] == str(dataset) and "not as it was written" in skipped["reason"]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(files=["train/x"]),
        lambda m: m.update(files={"train/x": 3}),
        lambda m: m.update(files=None),
        lambda m: m.pop("files"),
        lambda m: m.update(key=7),
        lambda m: m.update(timing=[], config="x", parents=[3, {}], inputs=[1], dataset=4, model="m"),
        lambda m: m.update(kind="run", parents={"a": 1}, config=[], inputs={"adapters": [3]}),
    ],
)
def test_manifests_of_any_content_end_in_a_message(dataset, tmp_path, change):
    other = write_case(tmp_path / "data" / "other", [row("9", 9, "train", "ann", words="x")])
    edit(dataset, change)
    try:
        assert run(dataset, other, dry_run="true")["num_rows"] in (1, 3)
    except UserError as error:
        assert str(error)
    for content in ("[]", "3", '"x"', "{", "null"):
        (dataset / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=r"manifest|JSON"):
            open_prepared(str(dataset))
        assert run(tmp_path, dry_run="true")["num_rows"] == 1


def test_permissions_that_forbid_reading_are_told(dataset):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (dataset / "manifest.json").chmod(0)
    with pytest.raises(UserError, match=r"manifest\.json"):
        open_prepared(str(dataset))
