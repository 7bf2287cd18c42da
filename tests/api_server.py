"""The model app over an engine on one of the tests' models, served by uvicorn: in this process or its own.

`python -m tests.api_server FOLDER STATE PORT` serves `FOLDER/base` until it is killed. FTLIB_TEST_ENGINE=vllm takes a
vLLM instead of the embedded engine (`tests.bench.serve_conformance`).
"""

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.inference_cases import save_varied_model

KEY = "0123456789abcdef" * 4
OTHER_KEY = "fedcba9876543210" * 4
STALE_S = 2.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def save_model(tokenizer: Any, folder: Path) -> Path:
    """Put the model that the engine is tested on at `folder/base`: a tiny one, or one that vLLM has kernels for."""
    if not _is_vllm():
        return save_varied_model(tokenizer, folder)
    from ftlib.models.source import resolve_source

    (folder / "base").symlink_to(resolve_source("embedded:smollm2-135m"))
    return folder


def _is_vllm() -> bool:
    return os.environ.get("FTLIB_TEST_ENGINE") == "vllm"


def start_engine(folder: Path) -> Any:
    """An engine on `FOLDER/base`."""
    if _is_vllm():
        from tests.vllm_case import vllm_engine

        engine = vllm_engine(folder / "base", max_waiting=64, max_model_len=480)
        engine.start()
        return engine
    from ftlib.inference.embedded import EmbeddedEngine
    from ftlib.inference.stepper import Stepper

    engine = EmbeddedEngine(
        lambda: Stepper.load(folder / "base", "float32", num_slots=6, capacity=480), max_rows=4, max_waiting=64
    )
    engine.start()
    return engine


def build(engine: Any, folder: Path, state: Path | None, share: int = 2) -> Any:
    """The ASGI application over a started engine."""
    from ftlib.models.load import load_tokenizer
    from serve_apps.auth import KeyRing
    from serve_apps.batch_worker import BatchWorker
    from serve_apps.batches import BatchStore
    from serve_apps.endpoint import Endpoint, ServedName
    from serve_apps.http import build_http
    from serve_apps.metrics import EndpointMetrics

    served = [ServedName("base", None, "base", load_tokenizer(folder / "base"))]
    endpoint = Endpoint(engine, served, EndpointMetrics(engine, "r1", "base"))
    store = BatchStore(state, stale_s=STALE_S) if state is not None else None
    worker = BatchWorker(store, endpoint, share, poll_s=0.1, pause_s=0.05) if store is not None else None
    return build_http(endpoint, KeyRing.of([KEY, OTHER_KEY]), worker)


@contextlib.contextmanager
def serving(app: Any):
    """Serve in a thread; yields the base URL."""
    import uvicorn

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def main() -> None:
    """Serve until killed."""
    import uvicorn

    folder, state, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    app = build(start_engine(folder), folder, state)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    main()
