"""Uploaded files and batch results on disk, each tenant's in a folder of its own.

    STATE/tenants/TENANT/files/ID.data     the content
    STATE/tenants/TENANT/files/ID.json     OpenAI's file object, written last: a file without it does not exist

Files have mode 0600, folders 0700: they hold prompts and answers. Several replicas share the folder.
"""

import json
import os
import re
import time
import uuid
from pathlib import Path
from typing import Any, BinaryIO

from ftlib.core import state_layout as layout
from serve_apps.errors import ApiError

MAX_FILE_BYTES = 200 << 20
"""OpenAI's limit for batch input."""

_COPY_BYTES = 1 << 20
_OPEN_TENANT = "open"  # where no key is asked for


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read; readers see all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open_private(temporary) as file:
            file.write(content)
            sync(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def open_private(path: Path) -> BinaryIO:
    """A new file with mode 0600; FileExistsError where there is one."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def sync(file: BinaryIO) -> None:
    """Have what was written on the disk."""
    file.flush()
    os.fsync(file.fileno())


def private_folder(path: Path) -> Path:
    """The folder, made with mode 0700 where it is not there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def tenant_folder(state: Path, tenant: str) -> Path:
    """Where all of a tenant's files lie."""
    folder = private_folder(state)
    for part in (layout.TENANTS, tenant or _OPEN_TENANT):
        folder = private_folder(folder / part)
    return folder


class FileStore:
    """The files of all tenants below one folder."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def add(self, tenant: str, content: BinaryIO, filename: str) -> dict[str, Any]:
        """Keep an upload; returns its file object."""
        file_id = f"file-{uuid.uuid4().hex}"
        path = self._folder(tenant) / f"{file_id}.{layout.DATA}"
        with open_private(path) as target:
            while block := content.read(_COPY_BYTES):
                target.write(block)
            sync(target)
        return self._describe(tenant, file_id, filename, "batch")

    def adopt(self, tenant: str, path: Path, file_id: str, filename: str) -> dict[str, Any]:
        """Make a finished local file one of the tenant's, whole or not at all; doing it again changes nothing."""
        path.replace(self._folder(tenant) / f"{file_id}.{layout.DATA}")
        return self._describe(tenant, file_id, filename, "batch_output")

    def get(self, tenant: str, file_id: str) -> dict[str, Any]:
        """A file object; raises ApiError 404 for one that is not there or another tenant's."""
        try:
            value: dict[str, Any] = json.loads(self._path(tenant, file_id, layout.OBJECT).read_bytes())
        except FileNotFoundError:
            raise _no_file() from None
        return value

    def content(self, tenant: str, file_id: str) -> Path:
        """Where its bytes are; raises ApiError 404."""
        self.get(tenant, file_id)
        return self._path(tenant, file_id, layout.DATA)

    def delete(self, tenant: str, file_id: str) -> dict[str, Any]:
        """Forget a file; raises ApiError 404."""
        self.get(tenant, file_id)
        for kind in (layout.OBJECT, layout.DATA):
            self._path(tenant, file_id, kind).unlink(missing_ok=True)
        return {"id": file_id, "object": "file", "deleted": True}

    def all(self, tenant: str) -> list[dict[str, Any]]:
        """A tenant's file objects, newest first."""
        values = []
        for path in self._folder(tenant).glob("file-*.json"):
            try:
                values.append(json.loads(path.read_bytes()))
            except FileNotFoundError:  # deleted meanwhile
                continue
        return sorted(values, key=lambda value: (value["created_at"], value["id"]), reverse=True)

    def _describe(self, tenant: str, file_id: str, filename: str, purpose: str) -> dict[str, Any]:
        value = {
            "id": file_id,
            "object": "file",
            "bytes": self._path(tenant, file_id, layout.DATA).stat().st_size,
            "created_at": int(time.time()),
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        write_private(self._path(tenant, file_id, layout.OBJECT), json.dumps(value).encode())
        return value

    def _folder(self, tenant: str) -> Path:
        return private_folder(tenant_folder(self._state, tenant) / layout.FILES)

    def _path(self, tenant: str, file_id: str, kind: str) -> Path:
        if not re.fullmatch(r"file-[0-9a-f]{32}", file_id):
            raise _no_file()
        return self._folder(tenant) / f"{file_id}.{kind}"


def page(values: list[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    """One page of OpenAI's lists: at most `limit` values behind the one whose id is `after`."""
    start = 0
    if after is not None:
        places = [index for index, value in enumerate(values) if value["id"] == after]
        if not places:
            raise ApiError(400, "after: no such object in this list", param="after", code="invalid_value")
        start = places[0] + 1
    chosen = values[start : start + limit]
    return {
        "object": "list",
        "data": chosen,
        "first_id": chosen[0]["id"] if chosen else None,
        "last_id": chosen[-1]["id"] if chosen else None,
        "has_more": start + limit < len(values),
    }


def _no_file() -> ApiError:
    return ApiError(404, "no such file", param="file_id", code="file_not_found")
