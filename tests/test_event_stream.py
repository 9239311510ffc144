"""What the page needs of the engine: streams for event loops, its status, inspection between steps, a visitor's limits."""

import asyncio
import threading
from pathlib import Path

import pytest

from hfjax_demo.errors import EngineClosedError, InvalidRequestError, ModelNotFoundError
from hfjax_demo.events import FinishedEvent, StartedEvent, StepEvent
from hfjax_demo.inference import model_sources
from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings
from tests.architectures import prompt_of
from tests.conftest import DEVICES

pytestmark = pytest.mark.xdist_group("engine")


def request_to(model, **fields):
    return GenerationRequest(**({"prompt": prompt_of(10), "model": model, "max_new_tokens": 8, "ignore_eos": True} | fields))


async def read(stream):
    return [event async for event in stream]


def test_an_event_loop_reads_the_same_events_as_a_thread(engine, tiny_llama):
    threaded = list(engine.submit(request_to(tiny_llama), allow_local=True))
    awaited = asyncio.run(read(engine.submit(request_to(tiny_llama), allow_local=True)))
    assert [type(event) for event in awaited if isinstance(event, StartedEvent | StepEvent | FinishedEvent)] == [
        type(event) for event in threaded if isinstance(event, StartedEvent | StepEvent | FinishedEvent)
    ]
    assert awaited[-1].record.token_ids == threaded[-1].record.token_ids


def test_the_event_loop_stays_free_while_a_stream_is_awaited(engine, tiny_llama):
    async def count_ticks():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await read(engine.submit(request_to(tiny_llama, max_new_tokens=64), allow_local=True))
        ticking.cancel()
        return ticks

    assert asyncio.run(count_ticks()) > 5


def test_a_hundred_streams_are_read_on_one_event_loop_and_take_no_thread_each(tiny_llama):
    """A waiting visitor must not hold one of the server's forty pool threads, or Stop would have none to run on."""

    async def read_all(streams):
        return await asyncio.gather(*(read(stream) for stream in streams))

    with InferenceEngine(Settings(devices=DEVICES, max_waiting=200)) as engine:
        streams = [engine.submit(request_to(tiny_llama, max_new_tokens=2), allow_local=True) for _ in range(100)]
        threads_before = threading.active_count()
        results = asyncio.run(read_all(streams))
        assert threading.active_count() <= threads_before + 2
    assert all(isinstance(events[-1], FinishedEvent) for events in results)


def test_ready_gives_what_piled_up_and_nothing_twice(engine, tiny_llama):
    async def read_slowly():
        events = []
        stream = engine.submit(request_to(tiny_llama), allow_local=True)
        async for event in stream:
            await asyncio.sleep(0.05)
            events += [event, *stream.ready()]
        return events

    events = asyncio.run(read_slowly())
    assert [event.index for event in events if isinstance(event, StepEvent)] == list(range(8))
    assert isinstance(events[-1], FinishedEvent)


def test_the_status_names_the_loaded_model_and_an_idle_engine(engine, tiny_llama):
    engine.generate(request_to(tiny_llama), allow_local=True)
    status = engine.status()
    assert status.is_alive
    assert status.model.name == tiny_llama
    assert status.environment.num_devices == DEVICES
    assert (status.num_running, status.num_waiting, status.busy_s) == (0, 0, 0.0)
    assert 0 < status.rss_bytes <= status.peak_rss_bytes


def test_the_status_counts_who_runs_and_who_waits(engine, tiny_llama):
    first = engine.submit(request_to(tiny_llama, max_new_tokens=200), allow_local=True)
    second = engine.submit(request_to(tiny_llama), allow_local=True)
    for event in first:
        if isinstance(event, StepEvent):
            break
    status = engine.status()
    assert (status.num_running, status.num_waiting) == (1, 1)
    first.close()
    assert second.result().finish_reason == "length"


def test_inspection_answers_while_a_request_runs(engine, tiny_llama):
    stream = engine.submit(request_to(tiny_llama, max_new_tokens=200), allow_local=True)
    for event in stream:
        if isinstance(event, StepEvent):
            break
    inspection = engine.inspect(tiny_llama, allow_local=True, context_len=32)
    assert inspection.kv_cache.layers[0].key_shape == (1, 2, 32, 16)
    assert engine.status().num_running == 1
    stream.close()


def test_inspection_passes_its_errors_on_and_the_engine_goes_on(engine, tiny_llama):
    with pytest.raises(ModelNotFoundError):
        engine.inspect("/etc", allow_local=False)
    with pytest.raises(InvalidRequestError, match="batch_size"):
        engine.inspect(tiny_llama, allow_local=True, batch_size=0)
    assert engine.generate(request_to(tiny_llama), allow_local=True).finish_reason == "length"


def test_a_closed_engine_says_so_in_its_status_and_refuses_inspection():
    engine = InferenceEngine(Settings(devices=DEVICES))
    engine.close()
    assert not engine.status().is_alive
    with pytest.raises(EngineClosedError):
        engine.inspect("SmolLM2-135M-Instruct")


def test_a_visitor_is_held_to_the_operators_limits_and_the_operator_is_not(tiny_llama):
    with InferenceEngine(Settings(devices=DEVICES, max_new_tokens=4)) as engine:
        with pytest.raises(InvalidRequestError, match="at most 4 new tokens"):
            engine.submit(GenerationRequest("hi", max_new_tokens=5))
        assert engine.generate(request_to(tiny_llama, max_new_tokens=5), allow_local=True).finish_reason == "length"


def test_a_run_ends_at_the_time_limit_with_what_it_has(tiny_llama, monkeypatch):
    """The limit counts from the prompt's start, not from the click: waiting and loading are not the visitor's doing."""
    # A visitor may name no path, and no small model has a name: here one may.
    monkeypatch.setattr(
        model_sources, "_from_path", lambda name, _, weights: model_sources._look_into(name, Path(name), weights)
    )
    with InferenceEngine(Settings(devices=DEVICES, time_limit_s=0.001)) as engine:
        record = engine.generate(request_to(tiny_llama, max_new_tokens=50))
    assert record.finish_reason == "time_limit"
    assert len(record.token_ids) == 1
