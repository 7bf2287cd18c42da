"""vLLM's OpenAI server as a child process: its command line, its environment, its life and what is asked of it.

It runs in an environment of its own, because it pins other versions than ours, and listens on a Unix socket in a folder
that only this user can enter: no port to find free or to be taken, and no other user reaches the routes that vLLM's key
does not guard (`/metrics` among them). The key is needed too. Its output goes to a file in the same folder; the logging
of requests is off.
"""

import json
import os
import secrets
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ftlib.core.errors import UserError
from ftlib.inference import guard

BASE_NAME = "base"
_POLL_S = 0.2
_ANSWER_S = 5.0
_LOAD_S = 300.0
_STOP_S = guard.GRACE_S + 20.0
_TAIL_LINES = 15
_GRAMMAR = "Grammar error:"
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx would read all certificates of the machine for each client


@dataclass(frozen=True)
class VllmOptions:
    """How the server is run."""

    model: Path
    """A resolved model folder."""

    python: str
    """Interpreter of the environment that has vLLM."""

    cpu: bool = True
    """Whether it computes on a CPU; the base is then served as an adapter of zeros (`vllm_adapters`)."""

    dtype: str = "auto"
    """vLLM's name of the precision; `auto`: what the model was saved in."""

    max_model_len: int = 2048
    """Longest prompt and answer together, in tokens."""

    max_rows: int = 16
    """Answers generated at once."""

    max_loras: int = 4
    """Adapters that take part in one step."""

    max_cpu_loras: int = 64
    """Adapters kept in memory; what is loaded beyond is read again from its folder when it is asked for."""

    max_lora_rank: int = 64
    """One of vLLM's sizes: 8, 16, 32, 64, 128, 256, 320 or 512."""

    arguments: Sequence[str] = ()
    """Further arguments of the server; they win over those that are made from these fields."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Further environment variables, such as `VLLM_CPU_KVCACHE_SPACE` (GiB)."""

    start_timeout_s: float = 600.0


def server_command(options: VllmOptions, socket: Path) -> list[str]:
    """The command line; it holds no secret."""
    values = {
        "--model": options.model,
        "--served-model-name": BASE_NAME,
        "--uds": socket,
        "--dtype": options.dtype,
        "--max-model-len": options.max_model_len,
        "--max-num-seqs": options.max_rows,
        "--max-loras": options.max_loras + options.cpu,
        "--max-cpu-loras": max(options.max_cpu_loras, options.max_loras + options.cpu),
        "--max-lora-rank": options.max_lora_rank,
        "--generation-config": "vllm",  # a model's own defaults must not fill in what a request leaves out
        # llguidance without white space, as in the embedded engine: small models fill their answers with it.
        "--structured-outputs-config": '{"backend": "guidance", "disable_any_whitespace": true}',
    }
    flags = ["--enable-lora", "--no-enable-log-requests", "--disable-uvicorn-access-log"]
    # The command `vllm` of the build for CPUs asks for the metadata of a package that has another name there.
    start = [options.python, "-m", "vllm.entrypoints.openai.api_server"]
    return start + [str(part) for pair in values.items() for part in pair] + flags + list(options.arguments)


def server_environment(options: VllmOptions, key: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment: ours without what points Python at our packages and without our secrets, and no network."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(("PYTHON", "FTLIB_"))}
    return {
        **kept,
        "VLLM_HOST_IP": "127.0.0.1",
        **options.environment,
        "VLLM_API_KEY": key,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


class ServerError(Exception):
    """The server failed at a request, by its own doing."""


class RefusedError(Exception):
    """The server refuses a request; `reason` is what the caller gets."""

    def __init__(self, reason: ValueError | KeyError) -> None:
        super().__init__(type(reason).__name__)
        self.reason = reason


class VllmServer:
    """One run of the server. Its methods may be called from any thread."""

    def __init__(self, options: VllmOptions, folder: Path, run: int) -> None:
        """Start it; `wait_until_ready` says when it serves.

        Args:
            options: how it is run.
            folder: for socket and log; entered by this user alone.
            run: number of the run, for their names.
        """
        self.log = folder / f"{run}.log"
        self._options = options
        self._socket = folder / f"{run}.sock"
        self._headers = {"Authorization": f"Bearer {(key := secrets.token_hex(32))}"}
        transport = httpx.HTTPTransport(uds=str(self._socket), verify=_NO_TLS)
        self._client = httpx.Client(transport=transport, base_url="http://vllm", headers=self._headers, trust_env=False)
        with open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, *server_command(options, self._socket)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=server_environment(options, key, os.environ),
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process that guards it, whose only child it is."""
        return self._guard.pid

    def exit_code(self) -> int | None:
        """Exit code (128 + signal), or None while it runs."""
        return self._guard.poll()

    def wait_until_ready(self, stopping: threading.Event) -> None:
        """Return when it serves; raises UserError with its last lines if it ends or takes too long."""
        deadline = time.monotonic() + self._options.start_timeout_s
        while not self._is_ready():
            if (code := self.exit_code()) is not None:
                raise UserError(f"vLLM ended at its start (exit code {code}); its last lines:\n{self._tail()}")
            if time.monotonic() > deadline or stopping.wait(_POLL_S):
                self.stop()
                limit = f"{self._options.start_timeout_s:.0f} s (start_timeout_s)"
                reason = "was stopped before it served" if stopping.is_set() else f"does not serve after {limit}"
                raise UserError(f"vLLM {reason}; its last lines:\n{self._tail()}")

    def stop(self) -> None:
        """End it and all its processes."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        try:
            self._guard.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        self._client.close()

    def metrics(self) -> str:
        """Its metrics in Prometheus' text format; raises httpx.HTTPError."""
        response = self._client.get("/metrics", timeout=_ANSWER_S)
        return response.raise_for_status().text

    def load_adapter(self, name: str, path: Path) -> None:
        """Load an adapter under a name that it never had; raises UserError with vLLM's reason."""
        self._command("load_lora_adapter", {"lora_name": name, "lora_path": str(path)})

    def unload_adapter(self, name: str) -> None:
        """Forget a name; raises UserError."""
        self._command("unload_lora_adapter", {"lora_name": name})

    async def complete(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The choices of a streamed completion; leaving the iterator closes the connection, which ends the request.

        Raises RefusedError, ServerError, httpx.HTTPError, json.JSONDecodeError (cut off).
        """
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket), verify=_NO_TLS)
        async with (
            httpx.AsyncClient(
                transport=transport, base_url="http://vllm", headers=self._headers, timeout=None, trust_env=False
            ) as client,
            client.stream("POST", "/v1/completions", json=body) as response,
        ):
            if response.status_code != 200:
                await response.aread()
                raise _error_of(response.json(), response.status_code)
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise _error_of(chunk, 500)
                for choice in chunk["choices"]:
                    yield choice

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/health", timeout=_ANSWER_S).status_code == 200
        except httpx.HTTPError:
            return False

    def _command(self, route: str, body: Mapping[str, str]) -> None:
        try:
            response = self._client.post(f"/v1/{route}", json=body, timeout=_LOAD_S)
        except httpx.HTTPError as error:
            raise UserError(f"vLLM does not answer ({type(error).__name__}); is it being started again?") from error
        if response.status_code != 200:
            reason = " ".join(_message_of(response.json()).split())
            raise UserError(f"vLLM refuses {route} of {body['lora_name']} ({reason[:500]})")

    def _tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(line[:300] for line in lines[-_TAIL_LINES:])


def _error_of(body: Mapping[str, Any], status: int) -> Exception:
    """The exception that an error object of vLLM's stands for."""
    error = body.get("error")
    if isinstance(error, dict) and isinstance(error.get("code"), int):
        status = error["code"]
    if status == 404:
        return RefusedError(KeyError(_message_of(body)))
    if status in (400, 422):
        return RefusedError(ValueError(_message_of(body)))
    return ServerError(f"vLLM answers with status {status}")


def _message_of(body: Mapping[str, Any]) -> str:
    error = body.get("error")
    message = str(error.get("message") if isinstance(error, dict) else error)
    if message.startswith(_GRAMMAR):  # goes on with a drawing over several lines
        message = "grammar: " + message.removeprefix(_GRAMMAR).strip().partition("\n")[0]
    return message
