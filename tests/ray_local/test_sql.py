"""A query as input of the whole preparation: SQLite, and a real PostgreSQL server that the test starts for itself."""

import json
import random
import secrets
import sqlite3

import pytest

from ftlib.core.errors import UserError
from tests.postgres import postgres_server
from tests.ray_local.test_prepare import contents, key, rows_of, run, sentence, write_jsonl  # noqa: F401

FAST = {"profile": "fast", "residual_sample": 0}  # a second scan loads a pipeline of names
PASSWORD = "p@ss%/" + secrets.token_hex(8)
QUERY = "SELECT id, question AS input, answer AS output, kind AS label FROM tickets WHERE answer LIKE '%a%' ORDER BY id"


def tickets(count=60):
    rng = random.Random(8)
    return [(i, f"{sentence(rng, 12)} bob{i}@example.com", f"a {sentence(rng, 6)}", "ab"[i % 2]) for i in range(count)]


def as_json(rows):
    return [{"id": str(i), "input": question, "output": answer, "label": kind} for i, question, answer, kind in rows]


def fill(cursor, rows, mark):
    cursor.execute("CREATE TABLE tickets (id INTEGER PRIMARY KEY, question TEXT, answer TEXT, kind TEXT)")
    cursor.executemany(f"INSERT INTO tickets VALUES ({mark}, {mark}, {mark}, {mark})", rows[::-1])


def prepare_query(connection, out, **input_section):
    return run([], out, input={"sql": QUERY, "connection": connection, **input_section}, pii=FAST)


def assert_same_dataset(out, beside):
    """Equal bytes; only `position` differs by nature: a byte of a file, a row of a query."""
    found, expected = (contents(path)[0] for path in (out, beside))
    # The two reports name their inputs alike; the row count of each source is in them.
    assert [name for name in expected if found[name] != expected[name]] == ["lineage.parquet"]
    ours, theirs = (
        sorted(tuple(sorted((k, str(v)) for k, v in row.items() if k != "position")) for row in lineage)
        for lineage in (rows_of(out, "lineage.parquet"), rows_of(beside, "lineage.parquet"))
    )
    assert ours == theirs and ours


def test_sqlite_gives_what_a_file_of_the_same_rows_gives(ray_local, tmp_path):
    rows = tickets()
    with sqlite3.connect(tmp_path / "tickets.db") as connection:
        fill(connection, rows, "?")
    connection.close()
    url = f"sqlite:///{tmp_path}/tickets.db"
    result = prepare_query(url, tmp_path / "out")
    assert result["counts"]["num_in"] == len(rows)
    run([write_jsonl(tmp_path / "sql", as_json(rows))], tmp_path / "beside", pii=FAST)
    assert_same_dataset(tmp_path / "out", tmp_path / "beside")
    assert prepare_query(url, tmp_path / "out")["reused"] is True


def test_rows_that_change_while_the_job_runs_fail_it(ray_local, tmp_path, monkeypatch):
    with sqlite3.connect(tmp_path / "tickets.db") as connection:
        fill(connection, tickets(), "?")
    connection.close()
    from ftlib.data import flow

    def run_and_change(self):
        outcome = original(self)
        with sqlite3.connect(tmp_path / "tickets.db") as connection:
            connection.execute("UPDATE tickets SET question = 'another' WHERE id = 5")
        return outcome

    original = flow.Flow.run
    monkeypatch.setattr(flow.Flow, "run", run_and_change)
    with pytest.raises(UserError, match="gave other rows at the end"):
        prepare_query(f"sqlite:///{tmp_path}/tickets.db", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tickets.db"]


def test_postgresql_streams_and_the_password_stays_out_of_every_file(ray_local, tmp_path, monkeypatch):
    import psycopg

    rows = tickets()
    with postgres_server(PASSWORD) as url:
        with psycopg.connect(url, password=PASSWORD) as connection:
            fill(connection.cursor(), rows, "%s")
        monkeypatch.setenv("FTLIB_INPUT_DB_PASSWORD", "wrong")
        with pytest.raises(UserError, match="the database says"):
            prepare_query(url, tmp_path / "out")
        (tmp_path / "password").write_text(PASSWORD)
        monkeypatch.setenv("FTLIB_INPUT_DB_PASSWORD_FILE", str(tmp_path / "password"))
        result = prepare_query(url, tmp_path / "out")
    assert result["counts"]["num_in"] == len(rows)
    run([write_jsonl(tmp_path / "sql", as_json(rows))], tmp_path / "beside", pii=FAST)
    assert_same_dataset(tmp_path / "out", tmp_path / "beside")
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
    assert (
        json.loads((tmp_path / "out" / "manifest.json").read_text())["timing"]["config"]["input"]["connection"] == url
    )
