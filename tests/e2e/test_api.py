"""OpenAI's API as its official client sees it: every endpoint over the embedded engine on a random model.

What the engine cannot do must be refused by the parameter's name, what it can do must have the right shape: the tests
ask its capabilities which of the two it is.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import httpx
import openai
import pytest

from tests.api_server import KEY, OTHER_KEY, build, free_port, save_model, serving, start_engine

MESSAGES = [{"role": "user", "content": "Où est mon colis 🦊?"}]
CHAT = {"model": "base", "messages": MESSAGES, "max_tokens": 6, "temperature": 0}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return save_model(tokenizer, tmp_path_factory.mktemp("api"))


@pytest.fixture(scope="module")
def engine(folder):
    engine = start_engine(folder)
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("state") / "state"


@pytest.fixture(scope="module")
def url(engine, folder, state):
    with serving(build(engine, folder, state)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=60)


def _wait(client, batch_id, *statuses):
    deadline = time.monotonic() + 600  # vLLM on a CPU answers a few rows a second
    while (batch := client.batches.retrieve(batch_id)).status not in statuses:
        assert time.monotonic() < deadline, batch
        time.sleep(0.05)
    return batch


def _rows(client, file_id):
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def _jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _row(number, **body):
    body = {"model": "base", "prompt": f"Row {number}", "max_tokens": 4, "temperature": 0, **body}
    return {"custom_id": f"row-{number}", "method": "POST", "url": "/v1/completions", "body": body}


def _submit(client, rows, endpoint="/v1/completions", **options):
    content = rows if isinstance(rows, bytes) else _jsonl(rows)
    file = client.files.create(file=("rows.jsonl", content), purpose="batch")
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **options)


def test_several_choices_whole_and_streamed(client):
    options = {**CHAT, "n": 3, "temperature": 1, "seed": 7}
    answer = client.chat.completions.create(**options)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(texts)) == 3
    one = client.chat.completions.create(**{**CHAT, "temperature": 1, "seed": 8})
    assert one.choices[0].message.content == texts[1], "the second choice has the seed after the first one's"
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens == 3 * one.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    streamed, order = ["", "", ""], []
    for chunk in client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            order.append(choice.index)
        usage = chunk.usage
    assert streamed == texts and usage.completion_tokens == answer.usage.completion_tokens
    assert order != sorted(order), "choices must come interleaved"


def test_prompts_in_every_form(client, tokenizer):
    texts = ["Once upon", "The end"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    answers = [
        client.completions.create(model="base", prompt=prompt, max_tokens=5, temperature=0)
        for prompt in (texts[0], ids[0], texts, ids)
    ]
    assert answers[0].choices[0].text == answers[1].choices[0].text == answers[2].choices[0].text
    assert [choice.text for choice in answers[2].choices] == [choice.text for choice in answers[3].choices]
    assert answers[3].usage.prompt_tokens == sum(map(len, ids))
    doubled = client.completions.create(model="base", prompt=texts, n=2, max_tokens=5, temperature=0)
    assert [choice.index for choice in doubled.choices] == [0, 1, 2, 3]
    assert doubled.choices[1].text == doubled.choices[0].text and doubled.usage.prompt_tokens == sum(map(len, ids))


OPTIONS = [
    ("presence_penalty", "presence_penalty", 0.5),
    ("frequency_penalty", "frequency_penalty", 0.5),
    ("logit_bias", "logit_bias", {"5": 3}),
    ("top_k", "top_k", 5),
    ("min_p", "min_p", 0.1),
    ("repetition_penalty", "repetition_penalty", 1.1),
    ("ignore_eos", "ignore_eos", True),
]


@pytest.mark.parametrize(("name", "field", "value"), OPTIONS)
def test_parameters_are_honoured_or_refused_by_name(client, engine, name, field, value):
    def ask():
        return client.chat.completions.create(**CHAT, extra_body={name: value})

    if field in engine.capabilities().parameters:
        assert ask().usage.completion_tokens <= 6
        return
    with pytest.raises(openai.BadRequestError) as refused:
        ask()
    assert refused.value.param == name


SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
GRAMMARS = [
    ("response_format", {"type": "json_object"}, "json_object", lambda text: isinstance(json.loads(text), dict)),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "json_schema",
        lambda text: json.loads(text)["a"] in (1, 2),
    ),
    ("structured_outputs", {"regex": "(yes|no)"}, "regex", lambda text: text in ("yes", "no")),
    ("structured_outputs", {"json": SCHEMA}, "json_schema", lambda text: json.loads(text)["a"] in (1, 2)),
]


@pytest.mark.parametrize(("name", "value", "kind", "holds"), GRAMMARS)
def test_grammars_are_honoured_or_refused_by_name(client, engine, name, value, kind, holds):
    def ask():
        return client.chat.completions.create(**{**CHAT, "max_tokens": 200, "seed": 3}, extra_body={name: value})

    capabilities = engine.capabilities()
    if "grammar" in capabilities.parameters and kind in capabilities.grammars:
        choice = ask().choices[0]
        assert choice.finish_reason == "length" or holds(choice.message.content)
        return
    with pytest.raises(openai.BadRequestError) as refused:
        ask()
    assert refused.value.param == name


def test_logprobs_have_their_shapes_or_are_refused_by_name(client, engine):
    capabilities = engine.capabilities()
    count = min(2, capabilities.max_logprobs)
    if "logprobs" not in capabilities.parameters:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**CHAT, logprobs=True)
        assert refused.value.param == "logprobs"
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="base", prompt="x", logprobs=1)
        assert refused.value.param == "logprobs"
        return
    answer = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=count)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens and all(len(entry.top_logprobs) == count for entry in entries)
    whole = b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace")
    assert whole.startswith(answer.choices[0].message.content.rstrip("\ufffd"))
    completion = client.completions.create(model="base", prompt="x", max_tokens=5, temperature=0, logprobs=count)
    logprobs = completion.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 5
    assert logprobs.text_offset[0] == 0


def test_embeddings_or_a_refusal(client, engine, tokenizer):
    def ask(**options):
        return client.embeddings.create(model="base", input=["a b", "c"], **options)

    if not engine.capabilities().embeddings:
        with pytest.raises(openai.BadRequestError) as refused:
            ask()
        assert refused.value.param == "model"
        return
    vectors = [item.embedding for item in ask().data]  # the client asks for base64 by itself
    floats = [item.embedding for item in ask(encoding_format="float").data]
    assert len(vectors) == 2 and sum(x * x for x in floats[0]) == pytest.approx(1, abs=1e-3)
    assert vectors[0] == pytest.approx(floats[0], abs=1e-6)
    assert ask().usage.prompt_tokens == sum(len(tokenizer(text)["input_ids"]) for text in ("a b", "c"))
    with pytest.raises(openai.BadRequestError) as refused:
        ask(dimensions=8)
    assert refused.value.param == "dimensions"


def test_metrics_have_vllms_names(url):
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=30) as response:
        text = response.read().decode()
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert f'vllm:{name}{{model_name="base",replica="r1"}}' in text
    assert "vllm:prefix_cache_queries_total{" in text and "vllm:prefix_cache_hits_total{" in text
    assert 'vllm:lora_requests_info{max_lora="0"' in text


def test_a_stream_that_is_left_ends_in_the_engine(client, engine):
    with client.chat.completions.create(**{**CHAT, "max_tokens": 400, "n": 3}, stream=True) as stream:
        next(iter(stream))
    deadline = time.monotonic() + 20
    while (stats := engine.stats()).num_running or stats.num_waiting:
        assert time.monotonic() < deadline, "the requests go on without a client"
        time.sleep(0.05)


def test_files(client, state):
    content = _jsonl([_row(1)])
    file = client.files.create(file=("é.jsonl", content), purpose="batch")
    assert file.bytes == len(content) and file.filename == "é.jsonl" and file.purpose == "batch"
    assert client.files.retrieve(file.id) == file and client.files.content(file.id).read() == content
    assert file.id in [item.id for item in client.files.list()]
    other = client.with_options(api_key=OTHER_KEY)
    for call in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)
    assert file.id not in [item.id for item in other.files.list()]
    with pytest.raises(openai.NotFoundError):
        other.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    modes = {path.stat().st_mode & 0o777 for path in state.rglob("*") if path.is_file()}
    assert modes == {0o600} and {p.stat().st_mode & 0o777 for p in [state, *state.rglob("*")] if p.is_dir()} == {0o700}
    assert not any(KEY in str(path) for path in state.rglob("*"))
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("x", b"x"), purpose="fine-tune")
    assert refused.value.param == "purpose"


def test_a_batch(client):
    rows = [_row(number) for number in range(5)] + [_row(5, model="nobody"), _row(6, stream=True)]
    batch = _submit(client, rows, metadata={"team": "x"})
    assert batch.status == "validating" and batch.metadata == {"team": "x"}
    batch = _wait(client, batch.id, "completed")
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (7, 5, 2)
    output, errors = _rows(client, batch.output_file_id), _rows(client, batch.error_file_id)
    assert [row["custom_id"] for row in output] == [f"row-{number}" for number in range(5)]
    alone = client.completions.create(**rows[0]["body"])
    assert output[0]["response"]["status_code"] == 200 and output[0]["error"] is None
    assert output[0]["response"]["body"]["choices"][0]["text"] == alone.choices[0].text
    assert [row["response"]["status_code"] for row in errors] == [404, 400]
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)
    with pytest.raises(openai.NotFoundError):
        client.with_options(api_key=OTHER_KEY).batches.retrieve(batch.id)


def test_chats_and_pages_of_batches(client):
    chat = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    batches = [_submit(client, [chat], "/v1/chat/completions") for _ in range(3)]
    for batch in batches:
        done = _wait(client, batch.id, "completed")
        assert _rows(client, done.output_file_id)[0]["response"]["body"]["object"] == "chat.completion"
    first = client.batches.list(limit=2)
    assert len(first.data) == 2 and first.has_more
    listed = [batch.id for batch in client.batches.list(limit=2)]  # the client turns the pages
    assert len(listed) == len(set(listed)) and {batch.id for batch in batches} <= set(listed)


def test_mistakes_in_a_batch_are_told_by_line(client):
    wrong = [
        _row(1),
        _row(1),
        {**_row(3), "method": "GET"},
        {**_row(4), "url": "/v1/embeddings"},
        {**_row(5), "body": None},
        {**_row(6), "custom_id": 6},
    ]
    batch = _wait(client, _submit(client, _jsonl(wrong) + b"{\n").id, "failed")
    assert [(item.line, item.code) for item in batch.errors.data] == [
        (2, "duplicate_custom_id"), (3, "invalid_method"), (4, "invalid_url"), (5, "invalid_body"),
        (6, "invalid_custom_id"), (7, "invalid_json_line"),
    ]  # fmt: skip
    assert "Row" not in batch.errors.to_json()
    assert _wait(client, _submit(client, b"\n").id, "failed").errors.data[0].code == "empty_file"


def test_a_batch_that_is_cancelled_keeps_what_is_done(client):
    batch = _submit(client, [_row(number, max_tokens=100) for number in range(60)])
    while client.batches.retrieve(batch.id).request_counts.completed == 0:
        time.sleep(0.05)
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    batch = _wait(client, batch.id, "cancelled")
    rows = _rows(client, batch.output_file_id) + _rows(client, batch.error_file_id)
    assert sorted(row["custom_id"] for row in rows) == sorted(f"row-{number}" for number in range(60))
    assert batch.request_counts.completed < 60 and rows[-1]["error"]["code"] == "batch_cancelled"


def _start(folder, state, port):
    command = [sys.executable, "-m", "tests.api_server", str(folder), str(state), str(port)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env={**os.environ, "PYTHONPATH": "."})
    deadline = time.monotonic() + 120
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5).raise_for_status()
            return process
        except httpx.HTTPError:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)


def test_a_server_killed_in_the_middle_of_a_batch_answers_each_row_once(folder, tmp_path):
    port, num_rows = free_port(), 200
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=2, timeout=60)
    process = _start(folder, tmp_path / "state", port)
    try:
        batch = _submit(client, [_row(number, max_tokens=16) for number in range(num_rows)])
        while (done := client.batches.retrieve(batch.id).request_counts.completed) < 20:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert done < num_rows, "it was killed too late to tell anything"
        (journal,) = (tmp_path / "state").rglob("journal.1")
        before = [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
        with open(journal, "ab") as file:
            file.write(b'{"row": 199, "ok": true, "resu')
        process = _start(folder, tmp_path / "state", port)
        batch = _wait(client, batch.id, "completed")
        output = _rows(client, batch.output_file_id)
        assert [row["custom_id"] for row in output] == [f"row-{number}" for number in range(num_rows)]
        ids = {row["id"] for row in output}
        assert 20 <= len(before) < num_rows and {entry["result"]["id"] for entry in before} <= ids, "none is done again"
        assert batch.request_counts.completed == num_rows and batch.error_file_id is None
        assert not list((tmp_path / "state").rglob("journal.*"))
    finally:
        process.kill()
        process.wait()
