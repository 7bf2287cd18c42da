"""Both engines behind the app, asked by the `openai` client and by schemathesis; and each by the suite of engines.

    FTLIB_VLLM_PYTHON=… python -m tests.bench.serve_conformance [--engines embedded vllm]

Runs the tests that say it, with each engine in turn: every endpoint whole and streamed (`tests/e2e/test_api.py`),
arbitrary requests made from the app's OpenAPI document (`tests/e2e/test_api_document.py`: no 5xx), and
`tests/inference_conformance.py`. The last line is JSON; the exit code is 1 when a test fails or an engine is not there.
"""

import argparse
import json
import os
import re
import subprocess
import sys

API = ["tests/e2e/test_api.py", "tests/e2e/test_api_document.py"]
EXAMPLES = 150
"""Of each operation and mode that schemathesis makes; the tests themselves make ten times fewer."""

ENGINE = {
    "embedded": ["tests/unit/test_embedded_engine.py"],
    "vllm": ["tests/vllm/test_vllm_conformance.py", "tests/vllm/test_vllm_engine.py"],
}


def run(engine: str, paths: list[str]) -> dict[str, int]:
    """Outcomes by kind, as pytest counts them."""
    environment = {**os.environ, "FTLIB_TEST_ENGINE": engine, "FTLIB_TEST_EXAMPLES": str(EXAMPLES)}
    command = [sys.executable, "-m", "pytest", "-q", "-rfEs", "--timeout", "1200", *paths]
    line = ""
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
    words = re.findall(r"(\d+) (passed|failed|skipped|errors?)", line)
    return {kind: int(number) for number, kind in words}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="*", default=["embedded", "vllm"])
    options = parser.parse_args()
    found, missed = {}, []
    for engine in options.engines:
        if engine == "vllm" and not os.environ.get("FTLIB_VLLM_PYTHON"):
            missed.append("vllm: FTLIB_VLLM_PYTHON names no interpreter")
            continue
        for name, paths in (("api", API), ("engine", ENGINE[engine])):
            counts = found[f"{engine}_{name}"] = run(engine, paths)
            print(engine, name, json.dumps(counts), flush=True)
            if not counts.get("passed") or counts.keys() - {"passed", "skipped"}:
                missed.append(f"{engine}_{name}")
    print(json.dumps({"bench": "serve_conformance", **found, "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
