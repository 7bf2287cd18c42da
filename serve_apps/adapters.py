"""Adapters that come and go while the endpoint serves: the routes, and what a gateway does about them."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, StrictStr

from ftlib.core.errors import UserError
from ftlib.core.logging import get_logger
from serve_apps.args import AdapterArgs
from serve_apps.auth import KeyRing
from serve_apps.body import json_body
from serve_apps.endpoint import Endpoint, ServedName
from serve_apps.errors import ApiError
from serve_apps.openapi import describe
from serve_apps.remote import RemoteEngine
from serve_apps.schema import Strict, parse
from serve_apps.shelf import AdapterShelf

logger = get_logger(f"ftlib.{__name__}")

MAX_ADAPTERS = 256
_POLL_S = 1.0
_Name = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]


class LoadRequest(Strict):
    """`POST /v1/load_lora_adapter`, as vLLM has it, and the content that is expected."""

    lora_name: _Name
    lora_path: Annotated[StrictStr, Field(min_length=1, max_length=4096)]
    sha256: Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class UnloadRequest(Strict):
    """`POST /v1/unload_lora_adapter`."""

    lora_name: _Name


class AdapterDesk:
    """Loads and unloads for one gateway, and follows what others did."""

    def __init__(
        self, shelf: AdapterShelf, endpoint: Endpoint, engine: RemoteEngine, name: Callable[[AdapterArgs], ServedName]
    ) -> None:
        """`name`: makes a public name of an adapter."""
        self._shelf, self._endpoint, self._engine, self._name = shelf, endpoint, engine, name
        self._fixed = endpoint.names()
        self._held: dict[str, AdapterArgs] = {}
        self._busy = asyncio.Lock()

    async def run(self) -> None:
        """Follow the shelf until cancelled."""
        while True:
            try:
                await self.follow()
            except Exception as error:
                logger.warning("the shelf of adapters cannot be read: %s", type(error).__name__)
            await asyncio.sleep(_POLL_S)

    async def follow(self) -> None:
        """Serve what is on the shelf, and nothing that no longer is."""
        async with self._busy:
            found = await asyncio.to_thread(self._shelf.all)
            for name in [name for name, adapter in self._held.items() if found.get(name) != adapter]:
                self._endpoint.remove(name)
                del self._held[name]
            for name, adapter in found.items():
                if name not in self._held and name not in self._fixed:
                    self._endpoint.add(await asyncio.to_thread(self._name, adapter))
                    self._held[name] = adapter

    async def load(self, request: LoadRequest) -> None:
        """Check an adapter, load it and serve it; raises ApiError."""
        name = request.lora_name
        await self.follow()
        if name in self._fixed or name in self._held:
            raise ApiError(409, f"{name} is served already; unload it first", param="lora_name", code="already_loaded")
        if len(self._held) >= MAX_ADAPTERS:
            raise ApiError(409, f"{MAX_ADAPTERS} adapters are loaded; unload one first", param="lora_name")
        try:
            adapter = await asyncio.to_thread(self._shelf.check, name, request.lora_path, request.sha256)
            await self._engine.load(adapter)
        except UserError as error:
            raise ApiError(400, str(error), param="lora_path", code="invalid_value") from None
        await asyncio.to_thread(self._shelf.put, adapter)
        await self.follow()

    async def unload(self, request: UnloadRequest) -> None:
        """Stop serving an adapter; raises ApiError 404."""
        name = request.lora_name
        await self.follow()
        if name not in self._held:
            raise ApiError(404, f"no adapter {name} was loaded here", param="lora_name", code="model_not_found")
        adapter = self._held[name]
        await asyncio.to_thread(self._shelf.remove, name)
        await self.follow()
        await self._engine.unload_everywhere(adapter)


def add_adapter_routes(app: FastAPI, desk: AdapterDesk, keys: KeyRing) -> None:
    """vLLM's routes, for whoever has a key."""

    @app.post("/v1/load_lora_adapter", **describe("Load an adapter", LoadRequest, fails=(400, 409, 413)))
    async def load(request: Request) -> Response:
        keys.check(request.headers.get("authorization"))
        parsed: Any = parse(LoadRequest, await json_body(request))
        await desk.load(parsed)
        return JSONResponse({"id": parsed.lora_name, "object": "model"})

    @app.post("/v1/unload_lora_adapter", **describe("Unload an adapter", UnloadRequest, fails=(400, 404, 413)))
    async def unload(request: Request) -> Response:
        keys.check(request.headers.get("authorization"))
        parsed: Any = parse(UnloadRequest, await json_body(request))
        await desk.unload(parsed)
        return JSONResponse({"id": parsed.lora_name, "object": "model", "deleted": True})
