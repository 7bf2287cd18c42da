"""What reaches the engine of a request's parameters, and the shapes that come back; over a fake engine with all of the
protocol's capabilities. No Ray, no model."""

import asyncio
import base64
import json
import struct

import pytest
from starlette.testclient import TestClient

from ftlib.inference.protocol import Capabilities, EngineStats, Grammar, Health, QueueFullError, TokenEvent
from serve_apps.auth import KeyRing
from serve_apps.endpoint import Endpoint, ServedName
from serve_apps.http import build_http
from serve_apps.metrics import EndpointMetrics

KEYS = ["k" * 40, "z" * 40]
ALL = Capabilities(64, grammars=frozenset({"json_schema", "json_object", "regex"}), max_logprobs=5, embeddings=True)


class FakeEngine:
    """Answers each request with its number in the script's first token; counts what is taken from it."""

    def __init__(self, tokenizer):
        self.tokens = tokenizer("Où 🦊")["input_ids"]
        self.decode, self.able, self.requests = tokenizer.decode, ALL, []
        self.num_taken, self.num_closed, self.num_full, self.refusal = 0, 0, 0, None

    async def submit(self, request):
        self.requests.append(request)
        if self.refusal is not None:
            raise self.refusal
        if len(self.requests) > self.num_full > 0:
            raise QueueFullError("full")
        try:
            text = self.decode(self.tokens)
            for place, token in enumerate(self.tokens):
                last = place == len(self.tokens) - 1
                self.num_taken += 1
                top = ((token, -0.5), (0, float("-inf")))[: request.logprobs or 0]
                yield TokenEvent(
                    token, text if last else "", "stop" if last else None, None,
                    -0.5 if request.logprobs is not None else None, top, 3 if place == 0 else 0,
                )  # fmt: skip
                await asyncio.sleep(0)
        finally:
            self.num_closed += 1

    async def embed(self, prompts, adapter=None):
        return [[0.6, 0.8] for _ in prompts]

    def capabilities(self):
        return self.able

    def health(self):
        return Health(True, 0.0)

    def stats(self):
        return EngineStats(
            kv_cache_usage=0.5, prefix_cache_queries_total=9, prefix_cache_hits_total=4,
            running_adapters={"tickets@0123": 2, "a@1": 1}, waiting_adapters={"late@2": 1},
        )  # fmt: skip


@pytest.fixture
def engine(tokenizer):
    return FakeEngine(tokenizer)


@pytest.fixture
def app(engine, tokenizer):
    served = [ServedName("base", None, "x", tokenizer)]
    return build_http(Endpoint(engine, served, EndpointMetrics(engine, "r1", "base", 3)), KeyRing.of(KEYS))


@pytest.fixture
def client(app):
    return TestClient(app, headers={"Authorization": f"Bearer {KEYS[0]}"}, raise_server_exceptions=False)


def _chat(client, **changes):
    body = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, **changes}
    return client.post("/v1/chat/completions", json=body)


def test_every_parameter_reaches_the_engine(client, engine):
    given = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "presence_penalty": 0.3, "frequency_penalty": -0.2,
        "repetition_penalty": 1.2, "seed": 4, "ignore_eos": True, "stop": ["x"],
    }  # fmt: skip
    assert _chat(client, **given, logit_bias={"5": -3, "6": 2}, logprobs=True, top_logprobs=2).status_code == 200
    (request,) = engine.requests
    assert {name: getattr(request, name) for name in given} == {**given, "stop": ("x",)}
    assert request.logit_bias == ((5, -3.0), (6, 2.0)) and request.logprobs == 2


@pytest.mark.parametrize(
    ("changes", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Grammar("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "null"}}}},
            Grammar("json_schema", '{"type": "null"}'),
        ),
        ({"structured_outputs": {"regex": "a+"}}, Grammar("regex", "a+")),
        ({"structured_outputs": {"json": {"type": "null"}}}, Grammar("json_schema", '{"type": "null"}')),
    ],
)
def test_grammars(client, engine, changes, grammar):
    assert _chat(client, **changes).status_code == 200 and engine.requests[0].grammar == grammar


def test_a_grammar_that_the_engine_refuses_is_the_clients_mistake(client, engine):
    engine.refusal = ValueError("the secret schema")
    response = _chat(client, structured_outputs={"regex": "("})
    assert response.status_code == 400 and response.json()["error"]["param"] == "structured_outputs"
    assert "secret" not in response.text
    assert _chat(client).status_code == 500


def test_what_the_engine_lacks_is_refused_by_name(client, engine):
    engine.able = Capabilities(64, parameters=frozenset({"temperature", "top_p", "seed", "stop"}))
    for changes, param in (
        ({"top_k": 3}, "top_k"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ):
        error = _chat(client, **changes).json()["error"]
        assert (error["param"], error["code"]) == (param, "unsupported_parameter")
    response = client.post("/v1/embeddings", json={"model": "base", "input": "x"})
    assert response.status_code == 400 and response.json()["error"]["param"] == "model"
    assert engine.requests == []


def test_choices_have_seeds_of_their_own_and_one_prompt(client, engine):
    body = _chat(client, n=3, seed=5).json()
    assert [request.seed for request in engine.requests] == [5, 6, 7]
    assert len({request.request_id for request in engine.requests}) == 3
    usage, num_tokens = body["usage"], len(engine.tokens)
    assert usage["prompt_tokens"] == len(engine.requests[0].prompt) and usage["completion_tokens"] == 3 * num_tokens
    assert usage["prompt_tokens_details"] == {"cached_tokens": 3}
    assert engine.num_closed == 3


def test_choices_that_find_no_room_are_refused_together(client, engine):
    engine.num_full = 2
    assert _chat(client, n=3).status_code == 429 and engine.num_closed == 2


def test_logprobs_of_a_chat(client, engine):
    choice = _chat(client, logprobs=True, top_logprobs=2).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == "Où 🦊" == choice["message"]["content"]
    assert any(entry["token"].startswith("bytes:\\x") for entry in entries), "a part of a character is told as bytes"
    assert [top["logprob"] for top in entries[0]["top_logprobs"]] == [-0.5, -9999.0]
    lines = [line.removeprefix("data: ") for line in _chat(client, logprobs=True, stream=True).text.split("\n\n")]
    chunks = [json.loads(line)["choices"][0] for line in lines if line and line != "[DONE]"]
    streamed = [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"]["content"]]
    assert [entry["bytes"] for entry in streamed] == [entry["bytes"] for entry in entries]


def test_logprobs_of_a_completion(client):
    body = {"model": "base", "prompt": "x", "logprobs": 1}
    logprobs = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    offsets = [0]
    for token in logprobs["tokens"]:
        offsets.append(offsets[-1] + len(token))
    assert logprobs["text_offset"] == offsets[:-1] and set(logprobs["token_logprobs"]) == {-0.5}
    assert [list(top) for top in logprobs["top_logprobs"]] == [[token] for token in logprobs["tokens"]]


def test_prompts_share_states_within_a_tenant_only(client, engine):
    _chat(client)
    _chat(client)
    _chat(client, cache_salt="x")
    client.headers["Authorization"] = f"Bearer {KEYS[1]}"
    _chat(client)
    first, again, salted, other = [request.salt for request in engine.requests]
    assert first == again and len({first, salted, other}) == 3 and KEYS[0] not in first


def test_embeddings(client):
    def ask(**changes):
        return client.post("/v1/embeddings", json={"model": "base", "input": "a b", **changes})

    assert ask().json()["data"] == [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8]}]
    body = ask(input=[[1, 2], [3]], encoding_format="base64").json()
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3} and len(body["data"]) == 2
    assert struct.unpack("<2f", base64.b64decode(body["data"][1]["embedding"])) == pytest.approx((0.6, 0.8))
    for changes in (
        {"dimensions": 2},
        {"user": "me"},
        {"encoding_format": "int8"},
        {"input": []},
        {"input": ["", "a"]},
    ):
        response = ask(**changes)
        assert response.status_code == 400 and response.json()["error"]["param"] == next(iter(changes))


def test_metrics_of_caches_and_adapters(client):
    text = client.get("/metrics").text
    assert 'vllm:kv_cache_usage_perc{model_name="base",replica="r1"} 0.5' in text
    assert 'vllm:prefix_cache_queries_total{model_name="base",replica="r1"} 9.0' in text
    assert 'vllm:prefix_cache_hits_total{model_name="base",replica="r1"} 4.0' in text
    assert 'waiting_lora_adapters="late"' in text
    assert 'max_lora="3"' in text and 'running_lora_adapters="a,tickets"' in text


def _stream_into(app, send, num_choices):
    body = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "stream": True, "n": num_choices}
    request = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive():
        if request:
            return request.pop()
        await asyncio.Event().wait()

    headers = [(b"authorization", f"Bearer {KEYS[0]}".encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
        "path": "/v1/chat/completions", "raw_path": b"", "query_string": b"", "headers": headers, "scheme": "http",
    }  # fmt: skip
    return asyncio.ensure_future(app(scope, receive, send))


@pytest.mark.parametrize("num_choices", [1, 3])
def test_a_client_that_does_not_read_holds_the_engine_back_and_frees_it_at_once(app, engine, num_choices):
    async def run():
        engine.tokens = engine.tokens * 100

        async def send(message):
            if message.get("body"):
                await asyncio.Event().wait()

        task = _stream_into(app, send, num_choices)
        while engine.num_taken < num_choices:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert engine.num_taken <= 2 * num_choices, "events pile up for a client that does not read"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert engine.num_closed == num_choices, "not a moment later"

    asyncio.run(run())


def test_a_connection_that_breaks_frees_the_engine_at_once(app, engine):
    async def run():
        async def send(message):
            if message.get("body"):
                raise OSError("broken pipe")

        await _stream_into(app, send, 2)
        assert engine.num_closed == 2

    asyncio.run(run())
