"""schemathesis against the app's own OpenAPI document: no status that it does not tell, no 5xx, whatever is sent."""

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api_server import KEY, build, save_model, serving, start_engine

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

_LONGEST = 4
"""Tokens of an answer."""

BOUNDS = settings(
    max_examples=int(os.environ.get("FTLIB_TEST_EXAMPLES", "15")),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


@pytest.fixture(scope="module")
def document(tokenizer, tmp_path_factory):
    folder = save_model(tokenizer, tmp_path_factory.mktemp("document"))
    engine = start_engine(folder)
    with serving(build(engine, folder, tmp_path_factory.mktemp("state"))) as url:
        yield schemathesis.openapi.from_url(url.removesuffix("/v1") + "/openapi.json")
    engine.stop()


def _send(case):
    if isinstance(case.body, dict) and case.path.endswith("completions"):
        # A random name would always end in a 404, and long answers take long; untold is as long as the context.
        case.body = {"max_tokens": _LONGEST, **case.body, "model": "base"}
        for name in ("max_tokens", "max_completion_tokens"):
            if isinstance(case.body.get(name), int):
                case.body[name] = min(case.body[name], _LONGEST)
    case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, checks=CHECKS, timeout=60)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.name.lower())
def test_the_app_is_as_its_document_says(document, mode):
    num_operations = 0
    for result in document.get_all_operations():
        operation = result.ok()
        num_operations += 1
        try:
            BOUNDS(given(case=operation.as_strategy(generation_mode=mode))(_send))()
        except Unsatisfiable:  # nothing about this operation can be sent wrongly
            assert mode is schemathesis.GenerationMode.NEGATIVE and "requestBody" not in operation.definition.raw
    assert num_operations >= 17


def test_the_document_tells_all_routes(document):
    paths = set(document.raw_schema["paths"])
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/files", "/v1/batches"} <= paths
    chat = document.raw_schema["components"]["schemas"]["ChatRequest"]
    assert {"messages", "model"} <= set(chat["required"]) and chat["additionalProperties"] is False
