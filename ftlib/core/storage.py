"""Paths that may be local or fsspec URIs, and writes that appear whole or not at all.

Locally a result is written under a temporary name and renamed. On an object store there is no rename: files go under
their final, unique prefix and the file that readers look for (`_SUCCESS`, a manifest) is put last.

What is written holds people's records, or a model that has learnt from them, so only its owner can read it: files have
mode 0600, folders 0700. `FTLIB_UMASK` (octal, default 077) says otherwise: 027 lets the group read. It counts on every
node that writes.
"""

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from ftlib.core.errors import FtlibError, UserError

UMASK = "FTLIB_UMASK"
_OWNER_BITS = 0o700


def private_umask() -> int:
    """Permission bits that no new file or folder has; raises UserError where `FTLIB_UMASK` is none."""
    text = os.environ.get(UMASK) or "077"
    if not re.fullmatch(r"0?[0-7]{1,3}", text) or int(text, 8) & _OWNER_BITS:
        raise UserError(f"{UMASK}={text}: three octal digits are expected, the owner's 0: 077, 027 (the group reads)")
    return int(text, 8)


def use_private_umask() -> None:
    """Let everything that this process and its children write have the permissions of `FTLIB_UMASK`."""
    os.umask(private_umask())


def make_private_dir(path: Path) -> None:
    """Make a folder, parents included, with the permissions of `FTLIB_UMASK`; one that is there stays as it is."""
    path.mkdir(mode=0o777 & ~private_umask(), parents=True, exist_ok=True)


def state_home() -> Path:
    """Where caches and generated keys live: `FTLIB_HOME`, else `~/.cache/ftlib`."""
    return Path(os.environ.get("FTLIB_HOME") or Path.home() / ".cache" / "ftlib")


def is_uri(path: str) -> bool:
    """Whether a path names a remote file system (`s3://…`); `file://` counts as local."""
    return "://" in path and not path.startswith("file://")


def local_path(path: str) -> Path:
    """The local path behind `path` with `~` expanded; raises UserError for a remote URI."""
    if is_uri(path):
        raise UserError(f"{path}: a local path is needed here")
    return Path(path.removeprefix("file://")).expanduser()


def join(base: str, *parts: str) -> str:
    """Join path components below a local path or URI."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec file system of a path and the path within it. Listings are never cached: other processes write too."""
    try:
        if is_uri(path):
            fs, inner = fsspec.core.url_to_fs(str(path), use_listings_cache=False)
        else:
            fs, inner = fsspec.core.url_to_fs(str(local_path(path)))
    except (ImportError, ValueError) as error:
        raise UserError(f"{path}: no file system for this address ({error})") from error
    return fs, inner


@contextmanager
def reaching(path: str, key: str = "") -> Iterator[None]:
    """What an object store says instead of answering, as a UserError that names the address; local errors pass.

    Args:
        path: a local path or URI.
        key: configuration key that holds it.
    """
    try:
        yield
    except FtlibError:
        raise
    except Exception as error:  # each store has its own: no credentials, no such bucket, no route
        if not is_uri(path):
            raise
        name = f"{key}={path}" if key else path
        raise UserError(f"{name} cannot be reached: {type(error).__name__}: {error}") from error


def exists(path: str) -> bool:
    """Whether a file or folder is there; raises UserError where the store does not answer."""
    fs, inner = filesystem(path)
    with reaching(path):
        return bool(fs.exists(inner))


def read_bytes(path: str) -> bytes:
    """A file's content; raises UserError when it is absent or its store does not answer."""
    fs, inner = filesystem(path)
    with reaching(path):
        try:
            content: bytes = fs.cat_file(inner)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file") from error
        except OSError as error:  # a folder, or one that may not be read
            if is_uri(path):
                raise
            raise UserError(f"{path}: cannot be read ({error.strerror or type(error).__name__})") from error
        return content


def read_json(path: str) -> Any:
    """A JSON file's value; raises UserError when it is absent or broken."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error


def write_bytes(path: str, content: bytes) -> None:
    """Write a file atomically: readers see the old content or the new, never a part."""
    fs, inner = filesystem(path)
    if is_uri(path):
        fs.pipe_file(inner, content)
        return
    target = Path(inner)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 & ~private_umask()), "wb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), target.stat().st_mode & 0o777)  # what somebody allowed stays allowed
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str, content: str) -> None:
    """Write a UTF-8 file atomically."""
    write_bytes(path, content.encode())


def write_json(path: str, value: Any) -> None:
    """Write indented JSON atomically, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


@contextmanager
def atomic_dir(path: str) -> Iterator[Path]:
    """A local folder that appears under `path` only if the block ends without an error.

    Yields a temporary sibling folder; on success it replaces what stood at `path`. What a killed process left of an
    earlier attempt is removed first: a folder that is still written is locked.
    """
    target = local_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    make_private_dir(temporary)
    lock = os.open(temporary, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: nothing is removed there
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        if target.exists():
            retired = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
            os.replace(target, retired)
            os.replace(temporary, target)
            shutil.rmtree(retired)
        else:
            os.replace(temporary, target)
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove temporary siblings of a folder whose writer is dead."""
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.(tmp|old)")
    for folder in target.parent.iterdir():
        if not name.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def free_bytes(path: str) -> int | None:
    """Free disk space under the nearest existing parent of a local path; None for a URI."""
    if is_uri(path):
        return None
    probe = local_path(path).absolute()
    while not probe.exists():
        probe = probe.parent
    return shutil.disk_usage(probe).free
