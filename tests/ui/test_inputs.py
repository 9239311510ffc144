"""A request's inputs as handlers get them: field errors before anything waits, and what Gradio makes of an empty number."""

import pytest

from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui.inputs import FIELDS, check, parallel_info, request_from
from tests.conftest import DEVICES

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture
def here(engine):
    """Where the engine runs; known once its thread has answered something."""
    engine.inspect("GPT-2")
    return engine.status().environment


def values(**fields):
    return list(GenerationRequest("hi", **fields).to_dict().values())


def test_a_size_beyond_the_devices_is_said_at_its_field_before_anything_waits(engine, here):
    given = values(tensor_parallel=DEVICES + 1)
    checks = dict(zip(FIELDS, check(given, engine.settings, here), strict=True))
    assert [name for name, found in checks.items() if not found["is_valid"]] == ["tensor_parallel"]
    assert f"this process has {DEVICES} devices" in checks["tensor_parallel"]["message"]
    with pytest.raises(InvalidRequestError, match=f"this process has {DEVICES} devices"):
        engine.submit(GenerationRequest("hi", tensor_parallel=DEVICES + 1))


def test_the_size_says_how_many_devices_there_are_once_that_is_known(here):
    assert f"This process has {DEVICES} devices (cpu)" in parallel_info(here)
    assert parallel_info(None) == "Devices that weights and cache are split over."


def test_an_empty_cache_size_is_read_as_none():
    """Once the box around it had been opened, an empty number came as 0, and Generate refused what nobody had typed."""
    given = values()
    given[FIELDS.index("max_cache_len")] = 0
    assert request_from(given).max_cache_len is None
