"""Fixtures that several test files share: engines, the packaged model, small models."""

import os

import pytest

from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.inference.environment import configure_devices
from hfjax_demo.settings import Settings
from tests.architectures import write_architecture

# Eager decoding compiles thousands of operators, and most of the tests' time is XLA's. Without its optimisations it takes
# half of that; one test runs the real thing with the compiler's own settings.
QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

DEVICES = 8
"""Virtual devices of the test processes: enough for a mesh, fixed before JAX starts."""


def pytest_sessionstart() -> None:
    """Fixes what JAX reads once, before any test starts it."""
    os.environ.setdefault("XLA_FLAGS", QUICK_TO_COMPILE)
    configure_devices(DEVICES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the two long files first, so that each of two workers takes one and neither waits for the other at the end."""
    long_files = ("test_smollm2.py", "test_architectures.py")
    items.sort(key=lambda item: long_files.index(item.path.name) if item.path.name in long_files else len(long_files))


@pytest.fixture(scope="session")
def settings():
    return Settings(devices=DEVICES, max_waiting=32)


@pytest.fixture(scope="session")
def engine(settings):
    """One engine for the whole process, as in the app: what one test compiles, the next finds."""
    with InferenceEngine(settings) as engine:
        yield engine


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Folder of a random Llama with 2 layers, 4 query heads, 2 KV heads of 16."""
    return str(write_architecture("llama", tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory):
    """Folder of a random GPT-2 with tied embeddings: another architecture, to switch to."""
    return str(write_architecture("gpt2", tmp_path_factory.mktemp("models") / "gpt2", tie_word_embeddings=True))
