"""Fixtures that several test files share: engines, the packaged model, small models."""

import pytest

from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.inference.environment import configure_devices
from hfjax_demo.settings import Settings
from tests.architectures import write_architecture

DEVICES = 4
"""Virtual devices of the test processes: enough for a mesh, fixed before JAX starts."""


def pytest_sessionstart() -> None:
    """Fixes the device count before any test starts JAX with another."""
    configure_devices(DEVICES)


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
