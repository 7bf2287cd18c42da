"""The endpoint behind Ray's HAProxy, as the README sets it, in a cluster of its own: variables of a process decide."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.inference_cases import save_varied_model
from tests.ray_local.test_serving import _free_port

SCRIPT = """
import json, os, signal, sys
import openai, psutil
from ray import serve
from ftlib.config.deploy import DeployConfig
from ftlib.config.loader import validate
from ftlib.runtime.cluster import connect
from serve_apps.deploy import deploy
from tests.serving_cases import engine_pids, num_resumed

config = validate(DeployConfig, json.loads(sys.argv[1]))
with connect(config.cluster):
    url = deploy(config)["url"]
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    request = {"model": "base", "prompt": "Colis", "max_tokens": 440, "temperature": 0,
               "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(**request).choices[0].text
    pieces = []
    for number, chunk in enumerate(client.completions.create(**request, stream=True)):
        pieces += [choice.text for choice in chunk.choices]
        if number == 1:
            os.kill(engine_pids()[0], signal.SIGKILL)
    commands = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    found = {
        "same": "".join(pieces) == whole, "length": len(whole), "resumed": num_resumed(url.removesuffix("/v1")),
        "haproxy": any("/haproxy " in command for command in commands),
    }
    serve.shutdown()
print("FOUND", json.dumps(found))
"""


def test_streams_outlive_a_replica_behind_haproxy(tokenizer, tmp_path):
    folder = save_varied_model(tokenizer, tmp_path / "model")
    config = {
        "model": {"source": str(folder / "base"), "name": "base", "max_model_len": 480},
        "http": {"port": _free_port()},
        "replicas": {"num_cpus": 0.5},
        "cluster": {"address": "local", "num_cpus": 2},
        "ready_timeout_s": 180,
    }
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")},
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()), "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "FTLIB_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2]),
    }  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, json.dumps(config)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    told = [line for line in ended.stdout.splitlines() if line.startswith("FOUND ")]
    assert told, ended.stderr[-3000:]
    found = json.loads(told[0].removeprefix("FOUND "))
    assert found["haproxy"] and found["same"] and found["length"] > 100
    assert found["resumed"] >= 1
