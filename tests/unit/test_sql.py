"""SQL as input, against SQLite: order, values, errors that quote nothing, and secrets that stay out of everything."""

import datetime
import sqlite3

import pytest

from ftlib.config.loader import validate
from ftlib.config.prepare import InputConfig, PrepareConfig
from ftlib.core.errors import UserError
from ftlib.data.inputs import find_query
from ftlib.data.plan import plan_reads
from ftlib.data.read import ReadSettings, read_records
from ftlib.data.sql import Query, has_order, open_query

KEY = b"0123456789abcdef"
QUERY = "SELECT id, question AS input, answer AS output, kind AS label FROM tickets ORDER BY id"


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.delenv("FTLIB_INPUT_DB_PASSWORD", raising=False)
    path = tmp_path / "tickets.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE tickets (id INTEGER PRIMARY KEY, question TEXT, answer, kind TEXT)")
        rows = [(i, f"question {i} 100% at 12:30 :x", f"answer {i}", "ab"[i % 2]) for i in range(2500)]
        connection.executemany("INSERT INTO tickets VALUES (?, ?, ?, ?)", rows)
    connection.close()
    return path


def url(path):
    return f"sqlite:///{path}"


def test_rows_become_records_in_the_querys_order(database):
    file = find_query(QUERY, url(database))
    config = InputConfig(sql=QUERY, connection=url(database))
    tasks = plan_reads([file], config, KEY)
    assert [task.shape for task in tasks] == ["input_output"] and 2000 < tasks[0].num_rows_estimate < 3000
    rows = [row for table in read_records(tasks[0], ReadSettings(config, KEY, 700)) for row in table.to_pylist()]
    assert [row["id"] for row in rows] == [str(i) for i in range(2500)]
    assert rows[7]["messages"][0]["content"] == "question 7 100% at 12:30 :x"
    assert rows[7]["label"] == "b" and {row["source"] for row in rows} == {"sql"}
    assert file.describe() == find_query(QUERY, url(database)).describe()


def test_what_json_does_not_know_becomes_text(database):
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE tickets SET answer = ? WHERE id = 1", (b"caf\xc3\xa9",))
        connection.execute("UPDATE tickets SET answer = 2.5 WHERE id = 2")
    found = list(Query("SELECT answer FROM tickets WHERE id < 4 ORDER BY id", url(database)).rows())
    assert [row["answer"] for row in found] == ["answer 0", "café", 2.5, "answer 3"]


def test_a_table_that_changes_meanwhile_is_noticed(database):
    file = find_query(QUERY, url(database))
    file.query.check_unchanged(file.fingerprint)
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM tickets WHERE id = 3")
    with pytest.raises(UserError, match="gave other rows at the end"):
        file.query.check_unchanged(file.fingerprint)


@pytest.mark.parametrize(
    ("sql", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t\norder\n  by a, b limit 10", True),
        ("WITH x AS (SELECT 1) SELECT * FROM x ORDER BY 1", True),
        ("SELECT a FROM t", False),
        ("SELECT a FROM (SELECT a FROM (SELECT 1) u ORDER BY a) AS t", False),
        ("SELECT row_number() OVER (ORDER BY a) FROM t", False),
        ("SELECT 'order by' FROM t -- ORDER BY a", False),
    ],
)
def test_the_result_must_be_ordered(sql, ordered):
    assert has_order(sql) is ordered
    if not ordered:
        with pytest.raises(UserError, match="ORDER BY"):
            open_query(sql, "sqlite:////x.db")


@pytest.mark.parametrize(
    ("sql", "connection", "expected"),
    [
        ("SELECT absent FROM tickets ORDER BY 1", None, "no such column"),
        ("SELECT id AS a, kind AS a FROM tickets ORDER BY 1", None, "two columns have one name"),
        ("SELECT id FROM tickets WHERE id < 0 ORDER BY id", None, "gives no rows"),
        ("DELETE FROM tickets WHERE id = 1 -- \n RETURNING id ORDER BY 1", None, "database says"),
        (QUERY, "sqlite:////no/such/file.db", "no such file"),
        (QUERY, "sqlite:///relative.db", "absolutely"),
        (QUERY, "nonsense", "not a database URL"),
        (QUERY, "nosuch://host/db", "driver is not installed"),
        (QUERY, "postgresql://me:geheim@host/db", "take the password out"),
        (QUERY, "postgresql://me@127.0.0.1:1/db", "database says"),
    ],
)
def test_mistakes_are_named(database, sql, connection, expected):
    with pytest.raises(UserError, match=expected) as caught:
        find_query(sql, connection or url(database))
    assert "geheim" not in str(caught.value)


def test_the_password_is_in_no_text(monkeypatch):
    monkeypatch.setenv("FTLIB_INPUT_DB_PASSWORD", "geheim")
    query = open_query(QUERY, "postgresql://me@127.0.0.1:1/db")
    assert query.password == "geheim" and "geheim" not in repr(query)


def test_files_or_a_query():
    output = {"output": {"path": "/x"}}
    for section, expected in (
        ({}, "either paths or sql"),
        ({"paths": ["a"], "sql": QUERY, "connection": "c"}, "either paths or sql"),
        ({"sql": QUERY}, "go together"),
    ):
        with pytest.raises(UserError, match=expected):
            validate(PrepareConfig, {"input": section, **output})
    one = validate(PrepareConfig, {"input": {"sql": QUERY, "connection": "sqlite:////a.db"}, **output})
    two = validate(PrepareConfig, {"input": {"paths": ["a"]}, **output})
    assert one.result_keys == two.result_keys


def test_dates_are_written_as_iso():
    from ftlib.data.sql import _plain

    assert _plain(datetime.date(2026, 11, 22)) == "2026-11-22"
