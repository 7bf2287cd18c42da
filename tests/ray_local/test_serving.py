"""The endpoint on real Ray Serve, asked by the official client; answers against peft and transformers alone."""

import contextlib
import json
import os
import socket
import time
import urllib.request

import openai
import pytest

from ftlib.config.deploy import DeployConfig
from ftlib.config.loader import validate
from ftlib.core.errors import UserError
from tests.inference_cases import generate_alone, save_varied_model

KEY = "0123456789abcdef" * 4
MESSAGES = [{"role": "system", "content": "Triage."}, {"role": "user", "content": "Où est mon colis 🦊?"}]
ADAPTERS = {"tickets": "adapter0", "tickets.v2": "adapter1"}


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return save_varied_model(tokenizer, tmp_path_factory.mktemp("served"), num_adapters=2)


@pytest.fixture(scope="module")
def values(folder):
    return {
        "model": {"source": str(folder / "base"), "name": "base", "max_model_len": 480},
        "adapters": [{"name": name, "path": str(folder / sub)} for name, sub in ADAPTERS.items()],
        "http": {"port": _free_port()},
        "replicas": {"max_ongoing_requests": 2, "max_queued_requests": 2},
        "ready_timeout_s": 180,
    }


@pytest.fixture(scope="module")
def deployed(ray_local, values, tmp_path_factory):
    """The result of `deploy` with one API key set."""
    from ray import serve

    from serve_apps.deploy import deploy

    home = tmp_path_factory.mktemp("home")
    keys = home / "keys"
    keys.write_text(KEY + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTLIB_API_KEYS_FILE", str(keys))
        patch.setenv("FTLIB_HOME", str(home))
        yield deploy(validate(DeployConfig, values))
        serve.shutdown()


@pytest.fixture(scope="module")
def client(deployed):
    return openai.OpenAI(base_url=deployed["url"], api_key=KEY, max_retries=0, timeout=60)


def _metrics(deployed):
    url = deployed["url"].removesuffix("/v1") + "/metrics"
    with urllib.request.urlopen(url, timeout=30) as response:
        lines = [line for line in response.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def _metric(deployed, *parts):
    return sum(value for name, value in _metrics(deployed).items() if all(part in name for part in parts))


@pytest.mark.parametrize("name", ["base", *ADAPTERS])
def test_answers_equal_peft_and_transformers_alone(client, folder, tokenizer, name):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    if name in ADAPTERS:
        model = PeftModel.from_pretrained(model, folder / ADAPTERS[name])
    text = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = tokenizer.decode(generate_alone(model, prompt, 12), skip_special_tokens=True)

    answer = client.chat.completions.create(model=name, messages=MESSAGES, temperature=0, max_tokens=12)
    assert answer.choices[0].message.content == expected
    assert answer.usage.prompt_tokens == len(prompt) and answer.usage.completion_tokens == 12
    chunks = list(
        client.chat.completions.create(model=name, messages=MESSAGES, temperature=0, max_tokens=12, stream=True)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert len(chunks) > 5, "it must come piece by piece"
    completion = client.completions.create(model=name, prompt=prompt, temperature=0, max_tokens=12)
    assert completion.choices[0].text == expected and completion.choices[0].finish_reason == "length"


def test_models_and_errors(client, deployed):
    assert [model.id for model in client.models.list()] == ["base", *ADAPTERS] == deployed["models"]
    assert client.models.retrieve("tickets").parent == "base"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="base", messages=MESSAGES, modalities=["audio"])
    assert refused.value.param == "modalities"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_a_batch_is_worked_off_by_a_replica(client):
    row = {"model": "tickets", "messages": MESSAGES, "temperature": 0, "max_tokens": 12}
    line = {"custom_id": "one", "method": "POST", "url": "/v1/chat/completions", "body": row}
    file = client.files.create(file=("rows.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    deadline = time.monotonic() + 60
    while (batch := client.batches.retrieve(batch.id)).status != "completed":
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
    answer = json.loads(client.files.content(batch.output_file_id).text)["response"]["body"]
    alone = client.chat.completions.create(**row)
    assert answer["choices"][0]["message"]["content"] == alone.choices[0].message.content


def test_a_client_that_leaves_frees_the_engine(client, deployed):
    cancelled = _metric(deployed, "request_success_total", "cancelled")
    for chunks in range(1, 4):  # Serve notices at different moments
        with client.chat.completions.create(
            model="base", messages=MESSAGES, temperature=0, max_tokens=400, stream=True
        ) as stream:
            for _, _ in zip(range(chunks), stream):
                pass
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.1 * chunks).chat.completions.create(
                model="base", messages=MESSAGES, temperature=0, max_tokens=400
            )
    deadline = time.monotonic() + 20
    while _metric(deployed, "request_success_total", "cancelled") < cancelled + 6:
        assert time.monotonic() < deadline, "the requests go on without a client"
        time.sleep(0.1)
    assert _metric(deployed, "num_requests_running") == 0
    assert _metric(deployed, "rejected_total", 'status="5') == 0, "a client that leaves is no failure of ours"


def test_a_client_that_leaves_disturbs_no_other(client, deployed):
    def answer(timeout=60.0, stream=True):
        return client.with_options(timeout=timeout).completions.create(
            model="base", prompt=[5, 6, 7], temperature=0, max_tokens=400, stream=stream
        )

    def leave():
        with pytest.raises(openai.APITimeoutError):
            answer(timeout=0.4, stream=False)  # Serve cancels what this request has called
        return "left"

    whole = "".join(chunk.choices[0].text for chunk in answer() if chunk.choices)
    resumed = _metric(deployed, "streams_resumed_total")
    for pause in (3.0, 0.0):  # after it the gateway no longer listens to the replica: the first client begins that
        time.sleep(pause)
        first = _in_thread(leave)
        time.sleep(0.1)
        pieces = [chunk.choices[0].text for chunk in answer() if chunk.choices]
        first.join(timeout=10)
        assert first.result == "left" and "".join(pieces) == whole
    assert _metric(deployed, "streams_resumed_total") == resumed


def test_a_full_queue_is_refused_and_probes_get_through(client, deployed):
    def hold():
        return client.chat.completions.create(
            model="base", messages=MESSAGES, temperature=0, max_tokens=400, stream=True
        )

    streams = []
    try:
        with pytest.raises(openai.RateLimitError) as refused:
            for _ in range(8):
                # Two rows and two in the queue; a stream that waits sends no header, so ask without waiting for it.
                streams.append(_in_thread(hold))
                time.sleep(0.05)
                if len(streams) >= 4:
                    hold().close()
        assert refused.value.response.headers["retry-after"]
        with urllib.request.urlopen(deployed["url"].removesuffix("/v1") + "/health", timeout=10) as response:
            assert json.load(response)["status"] == "ok"
    finally:
        for stream in streams:
            stream.join(timeout=60)
            if stream.result is not None:
                stream.result.close()


def _in_thread(call):
    import threading

    class Held(threading.Thread):
        result = None

        def run(self):
            with contextlib.suppress(openai.RateLimitError):
                self.result = call()

    thread = Held(daemon=True)
    thread.start()
    return thread


def test_the_manifest_says_what_is_served(deployed, folder):
    from ftlib.core.fingerprints import folder_sha256

    with open(deployed["manifest"]) as file:
        manifest = json.load(file)
    assert manifest["kind"] == "deployment" and manifest["num_keys"] == 1
    assert [a["sha256"] for a in manifest["inputs"]["adapters"]] == [
        folder_sha256(folder / s) for s in ADAPTERS.values()
    ]
    assert KEY not in json.dumps(manifest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"http": {"port": 1}}, "already"),
        ({"http": {"host": "0.0.0.0", "port": 1}}, "no API key is set"),
        ({"adapters": [{"name": "base", "path": "ADAPTER"}]}, "is the base's"),
        ({"adapters": [{"name": "x", "path": "BASE"}]}, "neither an adapter"),
        ({"model": {"source": "OTHER"}}, "another base"),
    ],
)
def test_what_is_wrong_is_said_before_serve_is_touched(deployed, values, folder, smollm2, monkeypatch, change, message):
    from serve_apps.deploy import deploy

    text = json.dumps(change).replace("ADAPTER", str(folder / "adapter0")).replace("BASE", str(folder / "base"))
    change = json.loads(text.replace("OTHER", str(smollm2)))
    monkeypatch.delenv("FTLIB_API_KEYS_FILE")
    with pytest.raises(UserError, match=message):
        deploy(validate(DeployConfig, {**values, **change}))


def test_a_port_in_use(ray_local, monkeypatch):
    from serve_apps import deploy as module

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = validate(DeployConfig, {"model": {"source": "x"}, "http": {"port": taken.getsockname()[1]}})
        with pytest.raises(UserError, match="cannot listen there"):
            module._check_address(config, None)


def test_deploying_again_replaces_the_models(deployed, client, values):
    from serve_apps.deploy import deploy

    changed = {**values, "adapters": values["adapters"][:1]}
    assert os.environ["FTLIB_API_KEYS_FILE"]
    result = deploy(validate(DeployConfig, changed))
    assert result["models"] == ["base", "tickets"]
    assert [model.id for model in client.models.list()] == ["base", "tickets"]
