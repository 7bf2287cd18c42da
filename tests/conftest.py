"""Fixtures of all tests: models that start at once, and a home of their own for caches."""

import os
from pathlib import Path

import pytest

# Tiny matrices gain nothing from threads, and where cores are few those wait for each other. Read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The embedded model's folder: real weights, tokenizer and chat template."""
    from ftlib.models.source import resolve_source

    return resolve_source("embedded:smollm2-135m")


@pytest.fixture(scope="session")
def tokenizer(smollm2):
    """The embedded model's tokenizer."""
    from ftlib.models.load import load_tokenizer

    return load_tokenizer(smollm2)


@pytest.fixture(scope="session")
def tiny_model(smollm2, tmp_path_factory) -> Path:
    """A random two-layer Llama (1.6 M parameters, float32) with the embedded model's tokenizer and chat template."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama", smollm2)
