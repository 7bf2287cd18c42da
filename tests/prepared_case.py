"""A prepared dataset of every fate, written by hand and without Ray: rows that share ids, a keeper, a quarantine."""

import json
from pathlib import Path

import pyarrow as pa

from ftlib.data import schema as s
from ftlib.data.near_keys import FOLDED_PURPOSE, folded_hash
from ftlib.data.read import SUBJECT_PURPOSE, subject_hash
from ftlib.data.review import REVIEWED, as_task
from ftlib.data.write import encode_table, id_hashes
from ftlib.registry.manifest import build_manifest, hash_files, write_manifest
from ftlib.text.keyed import KeyedHash, key_fingerprint

KEY = b"0123456789abcdef"


def hashed(subject):
    return subject and subject_hash(KeyedHash(KEY, SUBJECT_PURPOSE), subject)


def folded(subject):
    return subject and folded_hash(KeyedHash(KEY, FOLDED_PURPOSE), subject)


def row(id_, position, place, subject=None, **more):
    """One input row; `findings`: entities, `words`: what it says."""
    who = {"subject": hashed(subject), "subject_folded": folded(subject)}
    return {"id": id_, "source": "a.jsonl", "position": position, "place": place, **who, **more}


def write_case(folder: Path, rows: list[dict], num_parts: int = 1) -> Path:
    """The dataset's files with manifest and `_SUCCESS`; with several parts the tables beside the splits are folders."""

    def part_of(item):
        return int(id_hashes([item["id"]])[0]) % num_parts

    rows = sorted(rows, key=lambda item: (part_of(item), item["id"], item["source"], item["position"]))
    folder.mkdir(parents=True)

    def put(name, schema, items):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        names = set(schema.names)
        path.write_bytes(
            encode_table(pa.Table.from_pylist([{k: v for k, v in i.items() if k in names} for i in items], schema))
        )

    def put_parts(name, schema, items):
        if num_parts == 1:
            return put(name, schema, items)
        for part in range(num_parts):
            put(f"{name}/part-{part:05d}.parquet", schema, [item for item in items if part_of(item) == part])

    for split in s.SPLITS:
        found = [item | {"text": item.get("words"), "metadata": "{}"} for item in rows if item["place"] == split]
        for part in range(2):
            put(f"{split}/part-{part:05d}.parquet", s.RECORD, [i for n, i in enumerate(found) if n % 2 == part])
    put_parts("dropped.parquet", s.DROPPED, [item for item in rows if item["place"] == "dropped"])
    findings = [
        {"id": item["id"], "field": "text", "start": n, "end": n + 1, "entity": entity, "replacement": "x"}
        for item in rows
        for n, entity in enumerate(item.get("findings", ()))
    ]
    put_parts("redactions.parquet", s.REDACTIONS, findings)
    broken = [item for item in rows if item["place"] == "quarantine"]
    put_parts("quarantine.parquet", s.QUARANTINE, sorted(broken, key=lambda item: item["position"]))
    counted = [item | {"num_redactions": len(item.get("findings", ()))} for item in rows]
    put_parts("lineage.parquet", s.LINEAGE, counted)
    held = [
        dict.fromkeys(REVIEWED) | item | {"text": item.get("words")} for item in rows if item.get("stage") == "review"
    ]
    (folder / "review.jsonl").write_text("".join(json.dumps(as_task(item)) + "\n" for item in held))
    (folder / "report.json").write_text(json.dumps({"samples": [item.get("words") for item in rows]}))
    (folder / "report.html").write_text(" ".join(str(item.get("words")) for item in rows))
    counts = {"splits": {split: sum(item["place"] == split for item in rows) for split in s.SPLITS}}
    manifest = build_manifest(
        "prepared", f"key of {folder.name}", {}, counts=counts, files=hash_files(folder), keyed_by=key_fingerprint(KEY)
    )
    write_manifest(str(folder), manifest)
    (folder / "_SUCCESS").write_text("")
    return folder


def everything_in(folder: Path) -> str:
    """All bytes of all files below a folder, and every value of every Parquet file."""
    import pyarrow.parquet as pq

    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.append(path.read_bytes().decode("latin-1"))
        if path.suffix == ".parquet":
            found.append(json.dumps(pq.read_table(path).to_pylist(), default=str, ensure_ascii=False))
    return "\n".join(found)
