"""The endpoint's HTTP behaviour over an engine that speaks a script: shapes, errors, keys, limits. No Ray, no model."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from ray.exceptions import TaskCancelledError
from starlette.testclient import TestClient

from ftlib.core.errors import UserError
from ftlib.inference.protocol import Capabilities, EngineStats, Health, QueueFullError, TokenEvent
from serve_apps.auth import KeyRing, is_loopback, read_keys
from serve_apps.endpoint import Endpoint, ServedName
from serve_apps.http import MAX_BODY_BYTES, build_http
from serve_apps.metrics import EndpointMetrics

KEY = "k" * 40
SCRIPT = [TokenEvent(1, "Hel"), TokenEvent(2, ""), TokenEvent(3, "lo 🦊", "stop")]


class ScriptedEngine:
    """Emits a fixed script; remembers requests and whether their streams were closed."""

    def __init__(self):
        self.script, self.requests, self.closed, self.healthy, self.full = SCRIPT, [], 0, True, False

    async def submit(self, request):
        if self.full:
            raise QueueFullError("full")
        self.requests.append(request)
        try:
            for event in self.script:
                if isinstance(event, Exception):
                    raise event
                yield event
                await asyncio.sleep(0)
        finally:
            self.closed += 1

    def health(self):
        return Health(self.healthy, 0.0, "" if self.healthy else "stuck")

    def stats(self):
        return EngineStats(num_running=2, prompt_tokens_total=7)

    def capabilities(self):
        return Capabilities(max_model_len=64)


@pytest.fixture
def engine():
    return ScriptedEngine()


@pytest.fixture
def client(engine, tokenizer):
    bare = SimpleNamespace(chat_template=None)
    served = [
        ServedName("base", None, "embedded:x", tokenizer),
        ServedName("tuned", "tuned@abc", "tuned@abc", tokenizer, "base"),
        ServedName("bare", None, "bare", bare),
    ]
    app = build_http(Endpoint(engine, served, EndpointMetrics(engine, "r1")), KeyRing.of([KEY, "z" * 40]))
    return TestClient(app, headers={"Authorization": f"Bearer {KEY}"}, raise_server_exceptions=False)


def _chat(client, **changes):
    body = {"model": "tuned", "messages": [{"role": "user", "content": "Hi"}], **changes}
    return client.post("/v1/chat/completions", json=body)


def _events(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_chat_answer(client, engine, tokenizer):
    response = _chat(client, temperature=0, max_tokens=9, stop="END", seed=3)
    body = response.json()
    assert response.status_code == 200 and body["object"] == "chat.completion" and body["model"] == "tuned"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello 🦊"}
    assert body["choices"][0]["finish_reason"] == "stop"
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert (
        body["usage"]["prompt_tokens"] == len(tokenizer(prompt)["input_ids"])
        and body["usage"]["completion_tokens"] == 3
    )
    (request,) = engine.requests
    assert (request.adapter, request.max_new_tokens, request.stop, request.seed) == ("tuned@abc", 9, ("END",), 3)
    assert engine.closed == 1


def test_chat_stream(client):
    response = _chat(client, stream=True, stream_options={"include_usage": True}, max_tokens=9)
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, usage = _events(response)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello 🦊"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 3
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_completions(client, engine, tokenizer):
    body = client.post("/v1/completions", json={"model": "base", "prompt": "Once", "stream": False}).json()
    assert body["object"] == "text_completion" and body["choices"][0]["text"] == "Hello 🦊"
    assert list(engine.requests[0].prompt) == tokenizer("Once")["input_ids"] and engine.requests[0].max_new_tokens == 16
    streamed = client.post("/v1/completions", json={"model": "base", "prompt": [5, 6], "stream": True})
    assert "".join(event["choices"][0]["text"] for event in _events(streamed)) == "Hello 🦊"
    assert engine.requests[1].prompt == (5, 6)


def test_without_a_limit_a_chat_may_use_the_context(client, engine):
    _chat(client)
    assert engine.requests[0].max_new_tokens == 64 - len(engine.requests[0].prompt)


def test_content_parts_are_joined(client, engine, tokenizer):
    parts = [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]
    _chat(client, messages=[{"role": "user", "content": parts}])
    _chat(client, messages=[{"role": "user", "content": "Hi you"}])
    assert engine.requests[0].prompt == engine.requests[1].prompt


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"n": True}, "n"),
        ({"n": 0}, "n"),
        ({"min_p": 2}, "min_p"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"seed": 1 << 63}, "seed"),
        ({"logprobs": True, "top_logprobs": 1}, "top_logprobs"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"audio": {}}, "audio"),
        ({"metadata": {}}, "metadata"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"user": "me"}, "user"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "0"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"stop": [""]}, "stop.0"),
        ({"seed": "x"}, "seed"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages.0.name"),
        ({"max_tokens": 65}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 80}]}, "messages"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(client, engine, changes, param):
    response = _chat(client, **changes)
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert engine.requests == []


def test_neutral_values_pass(client):
    neutral = {"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False, "tools": None, "user": None}
    assert _chat(client, **neutral, response_format={"type": "text"}, logit_bias={}).status_code == 200


@pytest.mark.parametrize("prompt", [["a", 1], [[1], []], [[]], [], "", ["a", ""], None, [10**9], [-1]])
def test_bad_prompts(client, prompt):
    response = client.post("/v1/completions", json={"model": "base", "prompt": prompt})
    assert response.status_code == 400 and response.json()["error"]["param"].startswith("prompt")


def test_unknown_model_and_template(client):
    response = _chat(client, model="nobody")
    assert response.status_code == 404 and response.json()["error"]["code"] == "model_not_found"
    response = _chat(client, model="bare")
    assert response.status_code == 400 and "no chat template" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[]", b'"x"', b"[" * 100_000, b'{"a": NaN}', b'{"\\ud800": 1}']
)
def test_bodies_that_are_no_request(client, content):
    response = client.post("/v1/chat/completions", content=content)
    assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_large(client):
    assert client.post("/v1/completions", content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413


@pytest.mark.parametrize("header", [None, "", "Bearer", f"Basic {KEY}", "Bearer wrong", f"Bearer {KEY}x", KEY])
@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/base", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
)
def test_keys_guard_every_route_of_v1(client, header, path):
    del client.headers["Authorization"]
    headers = {} if header is None else {"Authorization": header}
    response = client.request("GET" if "models" in path else "POST", path, headers=headers)
    assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"


def test_every_key_opens(client):
    assert client.get("/v1/models", headers={"Authorization": "bearer " + "z" * 40}).status_code == 200


def test_models(client):
    listed = client.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["base", "tuned", "bare"]
    assert client.get("/v1/models/tuned").json()["root"] == "tuned@abc"
    assert client.get("/v1/models/nobody").status_code == 404


def test_a_full_queue_is_a_429_even_for_a_stream(client, engine):
    engine.full = True
    for stream in (False, True):
        response = _chat(client, stream=stream)
        assert response.status_code == 429 and int(response.headers["Retry-After"]) > 0
        assert response.json()["error"]["type"] == "rate_limit_error"


def test_a_failure_on_the_way(client, engine):
    engine.script = [TokenEvent(1, "Hel"), TokenEvent(None, "", "error", "RuntimeError")]
    response = _chat(client)
    assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
    assert "error" in _events(_chat(client, stream=True))[-1]


def test_a_defect_tells_the_client_nothing(client, engine, caplog):
    engine.script = [ValueError("the secret prompt")]
    response = _chat(client)
    assert response.status_code == 500 and response.json()["error"]["message"] == "internal error"
    assert "secret" not in caplog.text


def test_a_client_that_leaves_is_no_failure(client, engine, caplog):
    engine.script = [TokenEvent(1, "Hel"), TaskCancelledError()]
    _chat(client)
    _chat(client, stream=True)
    assert 'rejected_total{replica="r1"' not in client.get("/metrics").text and not caplog.records


def test_unknown_routes_keep_the_shape(client):
    assert client.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert client.get("/v1/chat/completions").status_code == 405


def test_probes_need_no_key(client, engine):
    del client.headers["Authorization"]
    assert client.get("/ready").json()["models"] == ["base", "tuned", "bare"]
    assert client.get("/health").status_code == 200
    engine.healthy = False
    assert client.get("/health").status_code == 503 and client.get("/ready").status_code == 503


def test_metrics_count_what_happened(client):
    _chat(client)
    _chat(client, n=0)
    text = client.get("/metrics").text
    assert 'vllm:request_success_total{finished_reason="stop",model_name="tuned",replica="r1"} 1.0' in text
    assert 'vllm:time_to_first_token_seconds_count{model_name="tuned",replica="r1"} 1.0' in text
    assert 'vllm:inter_token_latency_seconds_count{model_name="tuned",replica="r1"} 2.0' in text
    assert 'vllm:num_requests_running{model_name="",replica="r1"} 2.0' in text
    assert 'ftlib:requests_rejected_total{replica="r1",status="400"} 1.0' in text
    assert "Hi" not in text


def test_keys_are_read_from_a_file_and_short_ones_refused(tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text(f"# staff\n{KEY}  # alice\n\n{'z' * 32}\n")
    monkeypatch.setenv("FTLIB_API_KEYS_FILE", str(file))
    assert read_keys() == [KEY, "z" * 32]
    file.write_text("short")
    with pytest.raises(UserError, match="fewer than 32"):
        read_keys()
    monkeypatch.delenv("FTLIB_API_KEYS_FILE")
    monkeypatch.delenv("FTLIB_API_KEYS", raising=False)
    assert read_keys() == []


def test_a_ring_holds_no_key():
    ring = KeyRing.of([KEY])
    assert KEY not in repr(ring) and ring.digests != KeyRing.of([KEY]).digests


def test_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "localhost", "::1", "127.1.2.3"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1"]))


def test_metrics_of_another_process_are_passed_on_but_for_those_counted_here():
    theirs = (
        "# HELP vllm:a_total Things\n# TYPE vllm:a_total counter\nvllm:a_total 3.0\n"
        "# HELP vllm:num_requests_running Running\n# TYPE vllm:num_requests_running gauge\n"
        "vllm:num_requests_running 9\n"
    )
    engine = ScriptedEngine()
    engine.metrics_text = lambda: theirs
    lines = EndpointMetrics(engine, "r1").render().decode().splitlines()
    assert "vllm:a_total 3.0" in lines
    assert "vllm:num_requests_running 9" not in lines
    assert sum(line.startswith("# TYPE vllm:num_requests_running") for line in lines) == 1
