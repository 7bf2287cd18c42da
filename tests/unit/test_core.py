"""Storage, fingerprints and secrets."""

from pathlib import Path

import pytest

from ftlib.core.errors import UserError
from ftlib.core.fingerprints import fingerprint, sha256_file
from ftlib.core.logging import format_duration
from ftlib.core.secrets import redaction_key
from ftlib.core.storage import atomic_dir, join, local_path, reaching, read_json, write_json


def test_atomic_dir_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "result"
    with pytest.raises(ZeroDivisionError), atomic_dir(str(target)) as folder:
        (folder / "part").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    for content in ("first", "second"):
        with atomic_dir(str(target)) as folder:
            (folder / "part").write_text(content)
        assert (target / "part").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_json_round_trip_and_clear_errors(tmp_path: Path) -> None:
    path = join(str(tmp_path), "a", "b.json")
    write_json(path, {"ü": [1, 2]})
    assert read_json(path) == {"ü": [1, 2]}
    Path(path).write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(UserError, match="no such file"):
        read_json(join(str(tmp_path), "absent.json"))
    with pytest.raises(UserError, match="local path is needed"):
        local_path("s3://bucket/x")


def test_a_store_that_does_not_answer_is_named_and_local_errors_pass() -> None:
    expected = r"input\.paths=s3://b/x cannot be reached: ConnectionError: no route"
    with pytest.raises(UserError, match=expected), reaching("s3://b/x", "input.paths"):
        raise ConnectionError("no route")
    with pytest.raises(UserError, match="told before"), reaching("s3://b/x"):
        raise UserError("told before")
    with pytest.raises(PermissionError), reaching("/b/x"):
        raise PermissionError


def test_fingerprint_ignores_key_order_and_sees_values(tmp_path: Path) -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    assert sha256_file(file).startswith("ba7816bf")


def test_redaction_key_comes_from_file_then_variable_then_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTLIB_HOME", str(tmp_path))
    monkeypatch.delenv("FTLIB_KEY", raising=False)
    monkeypatch.delenv("FTLIB_KEY_FILE", raising=False)
    made = redaction_key()
    assert redaction_key() == made and (tmp_path / "redaction.key").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("FTLIB_KEY", "variable-0123456789")
    assert redaction_key() == b"variable-0123456789"
    (tmp_path / "key").write_text("file-0123456789abc\n")
    monkeypatch.setenv("FTLIB_KEY_FILE", str(tmp_path / "key"))
    assert redaction_key() == b"file-0123456789abc"
    (tmp_path / "key").write_text("short")
    with pytest.raises(UserError, match="fewer than 16 bytes"):
        redaction_key()


def test_durations_read_well() -> None:
    assert [format_duration(s) for s in (0.4, 59, 75.2, 3_700)] == ["0s", "59s", "1m15s", "1h01m"]


def test_names_in_log_lines_cannot_forge_lines_or_turn_them_round(capfd, monkeypatch):
    import logging
    import sys

    from ftlib.core.logging import setup_logging, shown

    root = logging.getLogger("ftlib")
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "propagate", root.propagate)
    setup_logging()
    logger = logging.getLogger("ftlib.test")
    hostile = "a\n12:00:00 I ftlib: ok\x1b[2J\u202eb\u2028c\udcffd\ré"
    logger.info("%s: empty", hostile)
    logger.error("%s", ValueError(f"{hostile}: no such file"))
    sys.stderr.flush()
    lines = capfd.readouterr().err.split("\n")
    assert [line.startswith("12:00:00 I ftlib: ok") for line in lines] == [False] * len(lines)
    assert all(line.isprintable() for line in lines) and lines[0].endswith("é: empty")
    assert shown("a\nb") == "a\\nb" and shown("x" * 100) == "x" * 79 + "…" and shown("\u202e") == "\\u202e"
