"""The vLLM engine without vLLM: what it sends and refuses, and its supervision of a stand-in server."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from ftlib.core.errors import UserError
from ftlib.inference import guard
from ftlib.inference.protocol import GenerationRequest, Grammar, QueueFullError
from ftlib.inference.vllm import VllmEngine
from ftlib.inference.vllm_adapters import refuse_adapter, refuse_code, write_zero_adapter
from ftlib.inference.vllm_requests import (
    Answer,
    completion_body,
    parse_metrics,
    refuse_request,
)
from ftlib.inference.vllm_server import VllmOptions, _error_of, server_command, server_environment
from ftlib.models.adapt import check_adapter
from ftlib.runtime.processes import process
from tests import fake_vllm
from tests.inference_cases import save_varied_model

REQUEST = GenerationRequest("one", (1, 2, 3), 8)
METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 3.0
vllm:num_requests_running{engine="1",model_name="base"} 1.0
vllm:num_requests_waiting{engine="0",model_name="base"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="base"} 0.25
vllm:prompt_tokens_total{engine="0",model_name="base"} 1.2e+03
vllm:prompt_tokens_created{engine="0",model_name="base"} 1.7953951340463e+09
vllm:generation_tokens_total{engine="0",model_name="base"} 77.0
vllm:prefix_cache_queries_total{engine="0",model_name="base"} 1200.0
vllm:prefix_cache_hits_total{engine="0",model_name="base"} 400.0
vllm:iteration_tokens_total_count{engine="0",model_name="base"} 90.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="base"} 5.0
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
"""


def test_the_command_line_holds_no_secret_and_the_users_arguments_come_last():
    options = VllmOptions(Path("/m"), "/v/python", max_model_len=512, max_loras=8, arguments=["--max-num-seqs", "2"])
    command = server_command(options, Path("/s"))
    assert command[:3] == ["/v/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert command[-2:] == ["--max-num-seqs", "2"]
    assert command[command.index("--uds") + 1] == "/s" and "--no-enable-log-requests" in command
    assert not any("key" in part for part in command)


def test_the_environment_is_offline_and_has_neither_our_packages_nor_our_secrets():
    inherited = {"PATH": "/bin", "PYTHONPATH": "/ours", "FTLIB_API_KEYS": "secret", "VLLM_HOST_IP": "10.0.0.1"}
    options = VllmOptions(Path("/m"), "python", environment={"VLLM_CPU_KVCACHE_SPACE": "1"})
    made = server_environment(options, "key", inherited)
    assert made["PATH"] == "/bin" and made["VLLM_CPU_KVCACHE_SPACE"] == "1" and made["VLLM_API_KEY"] == "key"
    assert made["VLLM_HOST_IP"] == "127.0.0.1" and made["HF_HUB_OFFLINE"] == made["VLLM_NO_USAGE_STATS"] == "1"
    assert "PYTHONPATH" not in made and "secret" not in made.values()


def test_all_parameters_are_sent():
    request = replace(
        REQUEST,
        temperature=0.5,
        top_p=0.9,
        top_k=4,
        min_p=0.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        repetition_penalty=1.1,
        logit_bias=((5, 1.5),),
        seed=-1,
        salt="tenant",
        grammar=Grammar("regex", "a+"),
    )
    body = completion_body(request, "base", [2])
    assert body["prompt"] == [1, 2, 3] and body["max_tokens"] == 8 and body["stop_token_ids"] == [2]
    assert [body[name] for name in ("temperature", "top_p", "top_k", "min_p")] == [0.5, 0.9, 4, 0.1]
    assert [body[f"{name}_penalty"] for name in ("presence", "frequency", "repetition")] == [0.2, 0.3, 1.1]
    assert body["logit_bias"] == {"5": 1.5} and body["cache_salt"] == "tenant"
    assert body["seed"] >= 0, "vLLM takes -1 for no seed"
    assert body["structured_outputs"] == {"regex": "a+"}
    assert completion_body(replace(REQUEST, ignore_eos=True), "base", [2])["stop_token_ids"] == []
    rest = completion_body(replace(REQUEST, generated=(7, 8)), "base", [2])
    assert rest["prompt"] == [1, 2, 3, 7, 8] and rest["max_tokens"] == 6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": ()}, "prompt token"),
        ({"max_new_tokens": 30}, "at most 32"),
        ({"generated": tuple(range(8))}, "generated: 8 of 8"),
        ({"temperature": 0.001}, "temperature"),
        ({"logprobs": 21}, "logprobs: 21"),
        ({"logprobs": 1, "grammar": Grammar("json_object")}, "logprobs"),
        ({"ignore_eos": True, "grammar": Grammar("json_object")}, "ignore_eos"),
        ({"generated": (5,), "temperature": 1.0, "presence_penalty": 1.0}, "temperature, presence_penalty"),
        (
            {"generated": (5,), "frequency_penalty": 1.0, "grammar": Grammar("json_object")},
            "frequency_penalty, grammar",
        ),
    ],
)
def test_what_vllm_would_bend_is_refused_by_name(changes, words):
    with pytest.raises(ValueError, match=words):
        refuse_request(replace(REQUEST, **changes), 32)
    refuse_request(replace(REQUEST, generated=(5,), repetition_penalty=1.2, stop=("x",)), 32)


def test_a_grammar_that_vllm_refuses_is_told_in_one_line_and_named():
    body = {
        "error": {
            "message": 'Grammar error: at 1(8): invalid regex "((" (in regex): parse\n    ((\n     ^',
            "code": 400,
        }
    }
    assert str(_error_of(body, 400).reason) == 'grammar: at 1(8): invalid regex "((" (in regex): parse'
    assert str(_error_of({"error": {"message": "too long"}}, 400).reason) == "too long"


def _choice(tokens, reason=None, **more):
    return {"token_ids": tokens, "finish_reason": reason, **more}


def test_events_of_chunks_with_several_tokens(tokenizer):
    ids = tokenizer("one two STOP three")["input_ids"]
    answer = Answer(replace(REQUEST, stop=("STOP",)), tokenizer, frozenset({2}))
    events = [*answer.push(_choice(ids[:2])), *answer.push(_choice(ids[2:], "length"))]
    assert "".join(event.text for event in events) == "one two "
    assert events[-1].finish_reason == "stop" and len(events) < len(ids), "nothing behind a stop string"
    answer = Answer(REQUEST, tokenizer, frozenset({2}))
    events = [*answer.push(_choice(ids[:2])), *answer.push(_choice([2], "stop"))]
    assert [(event.token, event.finish_reason) for event in events] == [(ids[0], None), (ids[1], None), (2, "stop")]
    assert next(answer.push(_choice([], "abort"))).finish_reason == "error"


def test_an_answer_that_goes_on_shows_what_was_held_back(tokenizer):
    """Its `generated` ends in what may become a stop string."""
    first, rest = tokenizer("ab ST")["input_ids"], tokenizer("AR")["input_ids"]
    answer = Answer(replace(REQUEST, stop=("STOP",), generated=tuple(first)), tokenizer, frozenset())
    assert "".join(event.text for event in answer.push(_choice(rest, "length"))).startswith("ST")


def test_logprobs_name_tokens_best_first(tokenizer):
    answer = Answer(replace(REQUEST, logprobs=2), tokenizer, frozenset())
    top = {"token_id:9": -5.0, "token_id:4": -0.5, "token_id:7": -1.5}  # the drawn one, then the likeliest
    (event,) = answer.push(_choice([9], logprobs={"token_logprobs": [-5.0], "top_logprobs": [top]}))
    assert event.logprob == -5.0 and event.top_logprobs == ((4, -0.5), (7, -1.5))


def test_metrics():
    stats, progress = parse_metrics(METRICS)
    assert (stats.num_running, stats.num_waiting, stats.kv_cache_usage, stats.num_kv_tokens) == (4, 2, 0.25, 400)
    assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (1200, 77)
    assert (stats.prefix_cache_queries_total, stats.prefix_cache_hits_total) == (1200, 400)
    assert progress == (90.0, 1200, 77)
    assert parse_metrics("")[0].num_kv_tokens == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"r": 64}, "rank 64, above max_lora_rank 16"),
        ({"rank_pattern": {"q_proj": 32}}, "rank 32"),
        ({"trainable_token_indices": {"embed_tokens": [5]}}, "rows for new tokens"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_adapters_that_vllm_cannot_serve(tmp_path, changes, words):
    config = {"peft_type": "LORA", "r": 8, "bias": "none", "init_lora_weights": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    refuse_adapter(tmp_path, 16)
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UserError, match=words):
        refuse_adapter(tmp_path, 16)


def test_code_in_any_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"vision_config": {"auto_map": {}}}')
    refuse_code(tmp_path)
    (tmp_path / "config.json").write_text('{"parts": [{"text_config": {"auto_map": {"AutoConfig": "x.Y"}}}]}')
    with pytest.raises(UserError, match="auto_map"):
        refuse_code(tmp_path)


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):
    return save_varied_model(tokenizer, tmp_path_factory.mktemp("varied"), num_adapters=1)


def test_the_adapter_of_zeros_fits_and_changes_nothing(models, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = write_zero_adapter(models / "base", tmp_path / "zero")
    refuse_adapter(folder, 8)
    check_adapter(folder, models / "base")
    base = AutoModelForCausalLM.from_pretrained(models / "base")
    ids = torch.tensor([[5, 6, 7]])
    expected = base(input_ids=ids).logits
    assert torch.equal(PeftModel.from_pretrained(base, folder)(input_ids=ids).logits, expected)


@pytest.fixture
def make(models, tmp_path):
    """Engines over the stand-in, whose notes are in `tmp_path`; stopped at the end."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {fake_vllm.__file__} "$@"\n')
    python.chmod(0o755)
    made = []

    def engine(max_rows=4, start_timeout_s=20.0, **settings):
        options = VllmOptions(
            models / "base",
            str(python),
            max_model_len=64,
            max_rows=max_rows,
            start_timeout_s=start_timeout_s,
            environment={"FAKE_VLLM": str(tmp_path)},
        )
        made.append(VllmEngine(options, **settings))
        return made[-1]

    yield engine
    for one in made:
        one.stop()


@pytest.fixture
def notes(tmp_path):
    return tmp_path


def _wait(condition, limit_s=20.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


async def _collect(engine, request):
    return [event async for event in engine.submit(request)]


def _run(engine, *requests):
    async def together():
        return await asyncio.gather(*(_collect(engine, request) for request in requests))

    return asyncio.run(together())


def test_a_server_that_ends_or_hangs_at_its_start_is_shown_with_its_last_lines(make, notes):
    (notes / "broken").touch()
    with pytest.raises(UserError, match=r"exit code 1(.|\n)*no memory for a single block"):
        make().start()
    (notes / "broken").unlink()
    (notes / "slow").touch()
    for seconds in (1, 4, 16, 64):  # a busy machine may need more than one to start Python at all
        with pytest.raises(UserError, match=rf"does not serve after {seconds} s") as refused:
            make(start_timeout_s=float(seconds)).start()
        if "still loading" in str(refused.value):
            break
    assert "still loading" in str(refused.value)
    assert not any(process(int(pid)) for pid in (notes / "pids").read_text().split())


def test_answers_refusals_and_limits(make, models, notes):
    engine = make(max_rows=1, max_waiting=1)
    engine.start()
    (events,) = _run(engine, REQUEST)
    assert [event.token for event in events] == list(range(3, 11)) and events[-1].finish_reason == "length"
    assert json.loads((notes / "requests").read_text())["model"] == "zero", "on a CPU the base is an adapter of zeros"
    with pytest.raises(ValueError, match="not to its taste"):
        _run(engine, replace(REQUEST, prompt=(fake_vllm.REFUSE, 1)))
    with pytest.raises(ValueError, match="embeddings"):
        asyncio.run(engine.embed([(1,)]))

    async def flood():
        slow = [replace(REQUEST, request_id=f"s{i}", prompt=(fake_vllm.SLOW, 3), max_new_tokens=30) for i in range(2)]
        async with aclosing(engine.submit(slow[0])) as one, aclosing(engine.submit(slow[1])) as two:
            await asyncio.gather(anext(one), anext(two))
            with pytest.raises(QueueFullError, match="2 requests"):
                await _collect(engine, REQUEST)
        with pytest.raises(ValueError, match="in use"):
            await asyncio.gather(_collect(engine, slow[0]), _collect(engine, slow[0]))
        engine.drain()
        with pytest.raises(QueueFullError, match="no more requests"):
            await _collect(engine, REQUEST)

    asyncio.run(flood())
    assert engine.stats().num_finished["cancelled"] >= 2
    _wait(lambda: engine.stats().generation_tokens_total > 0)
    assert engine.stats().num_kv_tokens == 400 and "vllm:kv_cache_usage_perc" in engine.metrics_text()
    environment = json.loads((notes / "environment").read_text())
    assert environment["VLLM_API_KEY"] not in (notes / "command").read_text()


def test_a_dead_server_is_started_again_with_its_adapters_but_not_for_ever(make, models, notes):
    engine = make(max_restarts=1)
    engine.start()
    engine.load_adapter("mine", models / "adapter0")
    engine.load_adapter("other", models / "adapter0")
    engine.unload_adapter("other")
    death = replace(REQUEST, prompt=(fake_vllm.DIE, 3))
    (events,) = _run(engine, death)
    assert [event.finish_reason for event in events] == [None, "error"]
    _wait(lambda: not engine.health().ok)
    _wait(lambda: engine.health().ok)
    loaded = (notes / "load_lora_adapter").read_text().split()
    mine, other = loaded[1], (notes / "unload_lora_adapter").read_text().strip()
    assert loaded == ["zero", mine, other, "zero", mine] and mine.startswith("mine@") and mine != other
    (events,) = _run(engine, replace(REQUEST, adapter="mine"))
    assert len(events) == 8
    assert json.loads((notes / "requests").read_text().splitlines()[-1])["model"] == mine
    _run(engine, death)
    _wait(lambda: "not started again" in engine.health().message)
    with pytest.raises(QueueFullError, match="not started again"):
        _run(engine, REQUEST)
    with pytest.raises(UserError, match="not started again"):
        engine.load_adapter("late", models / "adapter0")


def test_health_sees_an_engine_that_stands_still_behind_an_open_port(make):
    engine = make(stall_s=1.0)
    engine.start()

    async def stand_still():
        async with aclosing(engine.submit(replace(REQUEST, prompt=(fake_vllm.STALL, 3)))) as events:
            await anext(events)
            assert engine.health().ok
            await asyncio.sleep(1.8)
            assert "not moved" in engine.health().message

    asyncio.run(stand_still())
    _wait(lambda: engine.health().ok)


def test_unloading_an_adapter_and_stopping_end_requests_as_cancelled(make, models, notes):
    engine = make()
    engine.start()
    engine.load_adapter("mine", models / "adapter0")
    long = GenerationRequest("long", (fake_vllm.SLOW, 3), 60)

    async def last_of(request, end):
        last = None
        async for event in engine.submit(request):
            if last is None:
                ending = asyncio.create_task(asyncio.to_thread(end))
            last = event
        await ending
        return last.finish_reason

    assert asyncio.run(last_of(replace(long, adapter="mine"), lambda: engine.unload_adapter("mine"))) == "cancelled"
    assert asyncio.run(last_of(long, lambda: engine.cancel("long"))) == "cancelled"
    pid = process(int((notes / "pids").read_text()))
    assert asyncio.run(last_of(long, engine.stop)) == "cancelled"
    assert not pid.is_alive() and not engine.health().ok


FAMILY = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"


@pytest.mark.parametrize("how", ["pipe", "leader", "parent"])
def test_a_guarded_family_ends_with_its_leader_or_its_parent(how):
    """The parent is killed, not asked: nothing of its own code can run."""
    command = [sys.executable, guard.__file__, sys.executable, "-c", FAMILY]
    if how == "parent":
        start = f"import subprocess, time; subprocess.Popen({command!r}, stdin=subprocess.PIPE); time.sleep(60)"
        command = [sys.executable, "-c", start]
    caller = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert caller.stdout.readline() == "up\n"
    family, unseen = [], [caller.pid]
    while unseen:
        pid = unseen.pop()
        unseen += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        family.append(process(pid))
    assert len(family) == (4 if how == "parent" else 3)
    if how == "pipe":
        caller.stdin.close()
    else:
        os.kill(caller.pid if how == "parent" else family[1].pid, signal.SIGKILL)
    assert caller.wait(20) == {"pipe": 128 + signal.SIGTERM, "leader": 128 + signal.SIGKILL, "parent": -9}[how]
    _wait(lambda: not any(one.is_alive() for one in family))
