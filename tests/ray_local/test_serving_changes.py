"""The endpoint while it changes: replicas killed, replaced, added by the load; adapters that come and go."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from safetensors.torch import load_file, save_file

from ftlib.config.deploy import DeployConfig
from ftlib.config.loader import validate
from ftlib.core.fingerprints import folder_sha256
from tests.inference_cases import save_varied_model
from tests.ray_local.test_serving import _free_port
from tests.serving_cases import engine_pids, metric, num_resumed

LENGTH = 400


@pytest.fixture(scope="module")
def values(tokenizer, tmp_path_factory):
    folder = save_varied_model(tokenizer, tmp_path_factory.mktemp("lost"), num_adapters=6)
    return {
        "model": {"source": str(folder / "base"), "name": "base", "max_model_len": 480},
        "adapters": [
            {"name": "tickets", "path": str(folder / "adapter0")},
            *({"name": f"home{i}", "path": str(folder / f"adapter{i}"), "replicas": 1} for i in range(2, 6)),
        ],
        "http": {"port": _free_port()},
        "replicas": {"num_replicas": 2, "num_cpus": 0.5, "max_ongoing_requests": 4},
        "load_adapters": True,
        "ready_timeout_s": 180,
    }


@pytest.fixture(scope="module")
def url(ray_local, values, tmp_path_factory):
    from ray import serve

    from serve_apps.deploy import deploy

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTLIB_HOME", str(tmp_path_factory.mktemp("home")))
        yield deploy(validate(DeployConfig, values))["url"]
        serve.shutdown()


def _streams(url, disturb):
    """The same four answers, greedy and drawn, of base and adapter; `disturb` is called when all are under way."""
    barrier = threading.Barrier(5)
    requests = [
        {"model": model, "prompt": f"Colis {number}", "max_tokens": LENGTH, "extra_body": {"ignore_eos": True}, **drawn}
        for number, (model, drawn) in enumerate(
            (model, drawn)
            for model in ("base", "tickets")
            for drawn in ({"temperature": 0}, {"temperature": 0.8, "seed": 3})
        )
    ]

    def one(request):
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
        pieces, usage = [], None
        options = {"stream": True, "stream_options": {"include_usage": True}}
        for number, chunk in enumerate(client.completions.create(**request, **options)):
            if number == 3:
                barrier.wait(60)
            usage = chunk.usage or usage
            pieces += [choice.text for choice in chunk.choices]
        return "".join(pieces), usage.completion_tokens

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(one, request) for request in requests]
        barrier.wait(60)
        disturb()
        return [item.result(120) for item in running]


def test_an_adapter_with_one_home_is_held_there_and_elsewhere_only_under_load(url):
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    root = url.removesuffix("/v1")

    def answer(model, length=12):
        request = {"prompt": "Colis", "max_tokens": length, "temperature": 0, "extra_body": {"ignore_eos": True}}
        return client.completions.create(model=model, **request).choices[0].text

    def held():
        return sum(metric(root, "ftlib:adapters_held"))

    assert held() == 2  # the one that is everywhere
    answers = [{answer(f"home{number}") for _ in range(6)} for number in range(2, 6)]
    assert all(len(same) == 1 for same in answers) and len(set.union(*answers)) == 4
    _until(lambda: held() == 2 + 4)
    with ThreadPoolExecutor(12) as pool:  # its home generates four at once
        assert len(set(pool.map(lambda _: answer("home2", LENGTH), range(12)))) == 1
    _until(lambda: held() == 2 + 4 + 1)


def test_streams_of_a_killed_replica_go_on_in_the_other_and_all_through_an_update(url, values):
    from serve_apps.deploy import deploy

    expected = _streams(url, lambda: None)
    assert [tokens for _, tokens in expected] == [LENGTH] * 4
    root = url.removesuffix("/v1")
    assert num_resumed(root) == 0

    def kill():
        before = set(engine_pids())
        assert len(before) == 2
        os.kill(before.pop(), signal.SIGKILL)

    assert _streams(url, kill) == expected
    assert num_resumed(root) >= 1

    changed = {**values, "replicas": {**values["replicas"], "max_queued_requests": 5}}
    update = threading.Thread(target=deploy, args=(validate(DeployConfig, changed),))
    assert _streams(url, update.start) == expected
    update.join(180)
    assert not update.is_alive()
    assert _streams(url, lambda: None) == expected


def test_adapters_come_and_go(url, values, tokenizer, tmp_path):
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
    other = save_varied_model(tokenizer, tmp_path, num_adapters=1) / "adapter0"
    weights = load_file(other / "adapter_model.safetensors")
    save_file(
        {key: tensor[..., :-1].contiguous() for key, tensor in weights.items()}, other / "adapter_model.safetensors"
    )
    path = Path(values["adapters"][0]["path"])

    def load(**body):
        return httpx.post(f"{url}/load_lora_adapter", json=body, timeout=60)

    def answer(model):
        request = {"prompt": "Colis", "max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}}
        return client.completions.create(model=model, **request).choices[0].text

    for wrong, status, param in (
        ({"lora_name": "late", "lora_path": str(path), "sha256": "0" * 64}, 400, "lora_path"),
        ({"lora_name": "late", "lora_path": str(tmp_path / "none")}, 400, "lora_path"),
        ({"lora_name": "late", "lora_path": str(other)}, 400, "lora_path"),
        ({"lora_name": "tickets", "lora_path": str(path)}, 409, "lora_name"),
        ({"lora_name": "../late", "lora_path": str(path)}, 400, "lora_name"),
    ):
        refused = load(**wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param)
    assert load(lora_name="late", lora_path=str(path), sha256=folder_sha256(path)).status_code == 200
    assert load(lora_name="second", lora_path=str(path.with_name("adapter1"))).status_code == 200
    assert {"late", "second"} <= {model.id for model in client.models.list()}
    expected = answer("tickets")
    assert answer("late") == expected not in (answer("second"), answer("base"))

    for pid in engine_pids():  # those that start in their place take the adapters from the shelf
        os.kill(pid, signal.SIGKILL)
    assert {answer("late") for _ in range(4)} == {expected}

    assert httpx.post(f"{url}/unload_lora_adapter", json={"lora_name": "late"}, timeout=60).status_code == 200
    with pytest.raises(openai.NotFoundError):
        answer("late")
    assert httpx.post(f"{url}/unload_lora_adapter", json={"lora_name": "tickets"}, timeout=60).status_code == 404
    assert answer("tickets") == expected


def test_replicas_follow_the_load(url, values):
    from serve_apps.deploy import deploy

    scaled = {
        **values["replicas"], "num_replicas": 1, "max_replicas": 2, "max_ongoing_requests": 2, "target_load": 1.0,
        "upscale_delay_s": 0.5, "downscale_delay_s": 3,
    }  # fmt: skip
    deploy(validate(DeployConfig, {**values, "replicas": scaled}))
    _until(lambda: len(engine_pids()) == 1)
    ended = threading.Event()

    def ask():
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120)
        while not ended.is_set():
            client.completions.create(model="base", prompt="x", max_tokens=LENGTH, extra_body={"ignore_eos": True})

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(ask) for _ in range(6)]
        try:
            _until(lambda: len(engine_pids()) == 2)
        finally:
            ended.set()
        for item in running:
            item.result(120)
    _until(lambda: len(engine_pids()) == 1)


def _until(holds):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.2)
