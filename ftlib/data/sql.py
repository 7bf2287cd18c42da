"""Rows of a SQL query as input: streamed through SQLAlchemy in the query's order, which must be total.

In: `input.sql` and `input.connection`. Out: one `InputFile` that stands for the query's result, and its rows; a row's
position is its number. The query runs once for the fingerprint and once in each pass, so its ORDER BY must name a
unique key and the rows must stay as they are; `Query.check_unchanged` says whether they did. Nothing is copied to disk.
Memory: one batch of rows. The password comes from `FTLIB_INPUT_DB_PASSWORD(_FILE)`, never from the configuration.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.core.errors import UserError
from ftlib.core.secrets import INPUT_DB_PASSWORD, read_secret
from ftlib.data.values import canonical_json

if TYPE_CHECKING:
    from sqlalchemy import URL
    from sqlalchemy.exc import DBAPIError

SOURCE = "sql"
_BATCH_ROWS = 1000
_PLAIN = (str, int, float, bool, dict, list, type(None))
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_NESTED = re.compile(r"\([^()]*\)")


@dataclass(frozen=True)
class Query:
    """A query and where it runs."""

    sql: str
    """SELECT with an ORDER BY."""
    connection: str
    """SQLAlchemy URL without a password."""
    password: str | None = field(default=None, repr=False)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows in the query's order, values as JSON knows them. Raises UserError where the database refuses."""
        with self._result() as result:
            names = list(result.keys())
            if len(set(names)) < len(names):
                raise UserError(f"input.sql: two columns have one name ({', '.join(names)}); rename one with AS")
            for row in result:
                yield {name: _plain(value) for name, value in zip(names, row, strict=True)}

    def describe(self) -> tuple[int, int, str]:
        """Rows, bytes of their JSON, and SHA-256 over all rows in order."""
        digest, num_rows, num_bytes = hashlib.sha256(), 0, 0
        for values in self.rows():
            content = encode(values)
            digest.update(content + b"\n")
            num_rows, num_bytes = num_rows + 1, num_bytes + len(content)
        return num_rows, num_bytes, digest.hexdigest()

    def check_unchanged(self, fingerprint: str) -> None:
        """Raise UserError when the query gives other rows, or another order, than at the start."""
        if self.describe()[2] != fingerprint:
            raise UserError(
                "input.sql gave other rows at the end of the job than at its start: query a table that is not written "
                "to meanwhile (a snapshot or a copy), and let ORDER BY name a unique key"
            )

    @contextmanager
    def _result(self) -> Iterator[Any]:
        from sqlalchemy import create_engine
        from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError
        from sqlalchemy.pool import NullPool

        url = database_url(self.connection, self.password)
        try:
            engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
            with engine.connect() as connection:
                # Without parameters the text is the database's alone: no `%` or `:name` in it means anything here.
                streamed = connection.execution_options(stream_results=True, yield_per=_BATCH_ROWS, no_parameters=True)
                yield streamed.exec_driver_sql(self.sql)
        except (ImportError, NoSuchModuleError) as error:
            raise UserError(f"input.connection={self.connection}: its driver is not installed ({error})") from None
        except DBAPIError as error:
            raise UserError(f"input.sql: the database says: {_complaint(error, self.password)}") from None
        except SQLAlchemyError as error:
            raise UserError(f"input.sql cannot be run: {type(error).__name__}") from None


def open_query(sql: str, connection: str) -> Query:
    """The query with its password from the environment; raises UserError for what can be known to be wrong."""
    if not has_order(sql):
        raise UserError(
            "input.sql needs an ORDER BY over a unique key (… ORDER BY id): rows are named by their place in the "
            "result, and the query is run more than once"
        )
    password = read_secret(INPUT_DB_PASSWORD)
    database_url(connection, password)
    return Query(sql, connection, password)


def has_order(sql: str) -> bool:
    """Whether a query orders its result: an ORDER BY outside of parentheses, quotes and comments."""
    bare, before = _QUOTED.sub(" ", sql), None
    while bare != before:
        bare, before = _NESTED.sub(" ", bare), bare
    return bool(re.search(r"\border\s+by\b", bare, re.IGNORECASE))


def database_url(connection: str, password: str | None) -> "URL":
    """The URL to connect to; raises UserError for a password in it, and for a SQLite file that is not there."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(connection)
    except ArgumentError:
        raise UserError(
            "input.connection: not a database URL; examples: postgresql://user@host/name, sqlite:////data/tickets.db"
        ) from None
    if url.password is not None:
        raise UserError(f"input.connection: take the password out of the URL and put it into {INPUT_DB_PASSWORD}_FILE")
    if url.get_backend_name() == "sqlite":
        file = Path(url.database or "")
        if not file.is_absolute():
            raise UserError(f"input.connection={connection}: name the file absolutely: sqlite:////data/tickets.db")
        if not file.is_file():
            raise FileNotFoundError(f"input.connection={connection}: no such file")
        # Never made, never written to.
        return url.set(database=f"file:{file}", query={"mode": "ro", "uri": "true"})
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return url.set(password=password) if password else url


def encode(values: dict[str, Any]) -> bytes:
    """A row's bytes: what its content hash and `quarantine.keep_raw` stand on."""
    return json.dumps(values, ensure_ascii=False, default=canonical_json).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    return value if isinstance(value, _PLAIN) else canonical_json(value)


def _complaint(error: "DBAPIError", password: str | None) -> str:
    """What a database complains about. A complaint about data would quote it: then the error's class alone."""
    from sqlalchemy.exc import OperationalError, ProgrammingError

    name = type(error.orig).__name__
    if not isinstance(error, (ProgrammingError, OperationalError)):
        return name
    line = str(error.orig).strip().partition("\n")[0][:300]
    return f"{name}: {line.replace(password, '***') if password else line}"
