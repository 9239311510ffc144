"""One thread, many callers: requests are served in turn, stopped within a step, none is lost."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from hfjax_demo.errors import (
    CapacityError,
    ClusterError,
    EngineClosedError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
    RequestStoppedError,
)
from hfjax_demo.events import FailedEvent, FinishedEvent, LoadingEvent, QueuedEvent, StartedEvent, StepEvent
from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.inference.generation import Generation
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings
from tests.architectures import prompt_of, write_architecture

pytestmark = pytest.mark.xdist_group("engine")


def request_to(model, **fields):
    return GenerationRequest(**({"prompt": prompt_of(10), "model": model, "max_new_tokens": 8, "ignore_eos": True} | fields))


def until_first_step(stream):
    for event in stream:
        if isinstance(event, StepEvent):
            return event
    raise AssertionError("the stream ended without a step")


def test_events_come_in_order_and_end_with_the_record(engine, tiny_llama):
    events = list(engine.submit(request_to(tiny_llama), allow_local=True))
    kinds = [type(event) for event in events]
    assert kinds[0] is QueuedEvent
    assert kinds.index(StartedEvent) < kinds.index(StepEvent)
    assert kinds.count(StepEvent) == 8
    assert kinds[-1] is FinishedEvent
    record = events[-1].record
    assert tuple(event for event in events if isinstance(event, StepEvent)) == record.steps
    assert "".join(step.text for step in record.steps) == record.text
    assert record.finish_reason == "length"


def test_a_second_request_compiles_nothing_whatever_its_prompt_seed_and_temperature(engine, tiny_llama):
    engine.generate(request_to(tiny_llama), allow_local=True)
    for fields in (
        {"prompt": prompt_of(3)},
        {"prompt": prompt_of(16), "seed": 5},
        {"temperature": 1.3, "seed": 6, "top_k": 9, "top_p": 0.5},
        {"max_new_tokens": 3},
    ):
        record = engine.generate(request_to(tiny_llama, **fields), allow_local=True)
        assert record.summary.num_traces == 0
        assert record.summary.num_compiles == 0
        assert all(step.compiled == () for step in record.steps)


def test_a_decode_step_is_traced_once_for_many_requests(engine, tiny_llama):
    for seed in range(3):
        record = engine.generate(request_to(tiny_llama, seed=seed, temperature=1.0), allow_local=True)
    assert record.summary.programs["decode_step 1 token, kvcache 256 fixed"] == 1


def test_the_same_seed_gives_the_same_tokens_in_eager_and_jit(engine, tiny_llama):
    def tokens(mode, seed):
        return engine.generate(request_to(tiny_llama, mode=mode, temperature=2.0, seed=seed), allow_local=True).token_ids

    assert tokens("jit", 1) == tokens("eager", 1) == tokens("jit", 1)
    assert tokens("jit", 1) != tokens("jit", 2)


def test_step_events_tell_the_growing_story(engine, tiny_llama):
    record = engine.generate(request_to(tiny_llama, mode="eager", max_new_tokens=4), allow_local=True)
    assert [step.input_shape for step in record.steps] == [(1, 10), (1, 1), (1, 1), (1, 1)]
    assert [step.filled_len for step in record.steps] == [10, 11, 12, 13]
    assert [step.position for step in record.steps] == [0, 10, 11, 12]
    assert [layer.key_shape for layer in record.steps[2].kv] == [(1, 2, 12, 16)] * 2
    assert record.steps[2].kv[0].capacity == record.steps[2].kv[0].filled_len == 12
    assert record.steps[2].kv_bytes == 2 * 2 * 2 * 12 * 16 * 4


def test_step_events_tell_the_fixed_story(engine, tiny_llama):
    record = engine.generate(request_to(tiny_llama, max_new_tokens=4), allow_local=True)
    assert record.steps[0].input_shape == (1, 16)
    assert {step.kv[1].value_shape for step in record.steps} == {(1, 2, 256, 16)}
    assert [step.kv[0].filled_len for step in record.steps] == [10, 11, 12, 13]
    assert record.summary.kv_bytes == 2 * 2 * 2 * 256 * 16 * 4


def test_step_events_tell_the_story_without_a_cache(engine, tiny_llama):
    record = engine.generate(request_to(tiny_llama, mode="eager", cache="none", max_new_tokens=3), allow_local=True)
    assert [(step.input_shape, step.output_shape) for step in record.steps] == [
        ((1, 10), (1, 11)),
        ((1, 11), (1, 12)),
        ((1, 12), (1, 13)),
    ]
    assert all(step.kv == () for step in record.steps)


def test_generation_stops_at_any_end_of_sequence_token_and_counts_it(engine, tiny_llama, monkeypatch):
    free = engine.generate(request_to(tiny_llama), allow_local=True)
    third = free.token_ids[2]
    monkeypatch.setattr(engine._worker.model, "eos_token_ids", (third, 9999))
    record = engine.generate(request_to(tiny_llama, ignore_eos=False), allow_local=True)
    assert record.finish_reason == "eos"
    assert record.token_ids == free.token_ids[: free.token_ids.index(third) + 1]
    ignoring = engine.generate(request_to(tiny_llama, ignore_eos=True), allow_local=True)
    assert ignoring.token_ids == free.token_ids


@pytest.mark.parametrize("count", [1, 2])
def test_max_new_tokens_counts_the_first_token(engine, tiny_llama, count):
    assert len(engine.generate(request_to(tiny_llama, max_new_tokens=count), allow_local=True).token_ids) == count


def test_a_full_cache_is_used_to_its_last_position(engine, tiny_llama):
    expected = engine.generate(request_to(tiny_llama, max_new_tokens=12), allow_local=True).token_ids
    record = engine.generate(request_to(tiny_llama, max_new_tokens=12, max_cache_len=22), allow_local=True)
    assert record.token_ids == expected
    assert record.steps[-1].kv[0].capacity == 22


def test_stop_takes_effect_within_one_step(engine, tiny_llama):
    stream = engine.submit(request_to(tiny_llama, max_new_tokens=200), allow_local=True)
    until_first_step(stream)
    assert engine.stop(stream.id)
    record = stream.result()
    assert record.finish_reason == "stopped"
    assert 1 <= len(record.token_ids) < 200
    assert not engine.stop(stream.id)


def test_no_step_begins_after_stop_was_asked_for(engine, tiny_llama, monkeypatch):
    begun_after_stop = []
    stream = engine.submit(request_to(tiny_llama, max_new_tokens=200), allow_local=True)
    until_first_step(stream)
    advance = Generation.advance
    job = stream._job
    monkeypatch.setattr(
        Generation, "advance", lambda self: (begun_after_stop.append(job.stop_requested.is_set()), advance(self))[1]
    )
    engine.stop(stream.id)
    stream.result()
    assert True not in begun_after_stop


def test_a_waiting_request_can_be_stopped_and_says_so(engine, tiny_llama):
    running = engine.submit(request_to(tiny_llama, max_new_tokens=100), allow_local=True)
    until_first_step(running)
    waiting = engine.submit(request_to(tiny_llama), allow_local=True)
    assert engine.stop(waiting.id)
    running.close()
    with pytest.raises(RequestStoppedError, match="before its first token"):
        waiting.result()
    assert running.result().finish_reason == "stopped"


def test_an_abandoned_stream_frees_the_engine(engine, tiny_llama):
    stream = engine.submit(request_to(tiny_llama, max_new_tokens=400), allow_local=True)
    until_first_step(stream)
    stop_requested = stream._job.stop_requested
    del stream
    gc.collect()
    assert stop_requested.is_set()
    assert len(engine.generate(request_to(tiny_llama), allow_local=True).token_ids) == 8


def test_a_closed_stream_frees_the_engine(engine, tiny_llama):
    stream = engine.submit(request_to(tiny_llama, max_new_tokens=400), allow_local=True)
    until_first_step(stream)
    stream.close()
    assert engine.generate(request_to(tiny_llama), allow_local=True).finish_reason == "length"
    assert stream.result().finish_reason == "stopped"


def test_twelve_streams_stepped_from_fresh_threads_never_overlap_and_none_is_lost(engine, tiny_llama, monkeypatch):
    """Gradio runs each `next()` of a generator on another pool thread; torch's modes are thread-local.

    Entering them per thread, or holding them across a yield, fails only when several people stream at once.
    """
    inside, overlaps, threads = [], [], set()
    advance = Generation.advance

    def watched(self):
        overlaps.append(bool(inside))
        inside.append(self)
        threads.add(threading.current_thread().name)
        try:
            return advance(self)
        finally:
            inside.remove(self)

    monkeypatch.setattr(Generation, "advance", watched)
    modes = [{"mode": "jit"}, {"mode": "eager"}, {"mode": "eager", "cache": "static"}]
    streams = [
        engine.submit(request_to(tiny_llama, seed=index, temperature=1.5, **modes[index % 3]), allow_local=True)
        for index in range(12)
    ]
    alone = {}
    pending = dict(enumerate(streams))
    while pending:
        for index, stream in list(pending.items()):
            box = []
            thread = threading.Thread(target=lambda stream=stream, box=box: box.append(next(stream)))
            thread.start()
            thread.join()
            if isinstance(box[0], FinishedEvent | FailedEvent):
                alone[index] = box[0]
                del pending[index]
    assert all(isinstance(event, FinishedEvent) for event in alone.values())
    assert all(len(event.record.token_ids) == 8 for event in alone.values())
    assert not any(overlaps)
    assert threads == {"hfjax-engine"}
    monkeypatch.undo()
    again = engine.generate(streams[3]._job.request, allow_local=True)
    assert again.token_ids == alone[3].record.token_ids


def test_requests_submitted_from_many_threads_are_all_served(engine, tiny_llama):
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda seed: engine.generate(request_to(tiny_llama, seed=seed), allow_local=True), range(8)))
    assert {record.token_ids for record in records} == {records[0].token_ids}


def test_waiting_requests_are_told_their_place(engine, tiny_llama):
    first = engine.submit(request_to(tiny_llama, max_new_tokens=60), allow_local=True)
    until_first_step(first)
    second = engine.submit(request_to(tiny_llama), allow_local=True)
    third = engine.submit(request_to(tiny_llama), allow_local=True)
    assert next(second) == QueuedEvent(1)
    assert next(third) == QueuedEvent(2)
    first.close()
    places = [event.place for event in third if isinstance(event, QueuedEvent)]
    assert places[-1] == 1
    second.result()


def test_a_full_queue_refuses_the_next_with_the_numbers(tiny_llama):
    with InferenceEngine(Settings(max_waiting=1)) as engine:
        running = engine.submit(request_to(tiny_llama, max_new_tokens=100), allow_local=True)
        until_first_step(running)
        waiting = engine.submit(request_to(tiny_llama), allow_local=True)
        with pytest.raises(InvalidRequestError, match="At most 1 requests may wait and 1 do"):
            engine.submit(request_to(tiny_llama), allow_local=True)
        running.close()
        waiting.close()


def test_a_failed_request_names_its_error_and_the_next_one_works(engine, tiny_llama):
    engine.generate(request_to(tiny_llama), allow_local=True)
    stream = engine.submit(request_to(tiny_llama, prompt=prompt_of(600)), allow_local=True)
    failed = [event for event in stream if isinstance(event, FailedEvent)]
    assert failed[0].error == "CapacityError"
    assert "600 + 8" in failed[0].message
    assert failed[0].field == "prompt"
    assert isinstance(stream.error, CapacityError)
    record = engine.generate(request_to(tiny_llama), allow_local=True)
    assert record.summary.load_s == 0


def test_a_model_that_does_not_exist_leaves_the_loaded_one_in_place(engine, tiny_llama):
    engine.generate(request_to(tiny_llama), allow_local=True)
    with pytest.raises(ModelNotFoundError):
        engine.generate(request_to("./no/such/folder"), allow_local=True)
    assert engine.generate(request_to(tiny_llama), allow_local=True).summary.load_s == 0


def test_a_path_from_a_browser_is_refused(engine, tiny_llama):
    with pytest.raises(ModelNotFoundError, match="command line only"):
        engine.generate(request_to(tiny_llama))


def test_an_unexpected_error_is_logged_and_hides_its_inside(engine, tiny_llama, monkeypatch, caplog):
    engine.generate(request_to(tiny_llama), allow_local=True)
    monkeypatch.setattr(Generation, "advance", lambda _: 1 / 0)
    stream = engine.submit(request_to(tiny_llama), allow_local=True)
    (failed,) = [event for event in stream if isinstance(event, FailedEvent)]
    assert "Something went wrong" in failed.message
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert engine.generate(request_to(tiny_llama), allow_local=True).finish_reason == "length"


def test_a_broken_mesh_fails_everyone_who_runs_waits_or_asks_and_refuses_the_next(settings, tiny_llama):
    """A step that waits for a process that is gone never returns: only another thread can tell those who wait for it."""
    gone = ClusterError("A mesh needs all its 2 processes, but process 1 is gone: it ended. Start all of them again.")
    with InferenceEngine(settings) as engine:
        running = engine.submit(request_to(tiny_llama, max_new_tokens=400), allow_local=True)
        until_first_step(running)
        waiting = engine.submit(request_to(tiny_llama), allow_local=True)
        engine._break(gone)
        for stream in (running, waiting):
            with pytest.raises(ClusterError, match="process 1 is gone"):
                stream.result()
        with pytest.raises(ClusterError, match="process 1 is gone"):
            engine.submit(request_to(tiny_llama), allow_local=True)
        with pytest.raises(ClusterError, match="process 1 is gone"):
            engine.inspect(tiny_llama, allow_local=True)
        status = engine.status()
        assert not status.is_alive
        assert status.failure == str(gone)
        assert (status.num_running, status.num_waiting) == (0, 0)


def test_switching_models_frees_the_old_ones_arrays(engine, tiny_llama, tiny_gpt2):
    engine.generate(request_to(tiny_llama), allow_local=True)
    old = list(engine._worker.model.weights.values())
    events = list(engine.submit(request_to(tiny_gpt2), allow_local=True))
    assert any(isinstance(event, LoadingEvent) for event in events)
    assert all(array.is_deleted() for array in old)
    record = engine.generate(request_to(tiny_gpt2), allow_local=True)
    assert record.model.architecture == "GPT2LMHeadModel"
    assert record.summary.load_s == 0


def test_a_finished_run_leaves_no_cache_behind(engine, tiny_llama):
    engine.generate(request_to(tiny_llama), allow_local=True)
    gc.collect()
    before = sum(array.nbytes for array in jax.live_arrays())
    engine.generate(request_to(tiny_llama), allow_local=True)
    gc.collect()
    assert sum(array.nbytes for array in jax.live_arrays()) <= before


def test_tied_weights_stay_one_array_and_no_weight_stays_in_torch(engine, tiny_gpt2):
    record = engine.generate(request_to(tiny_gpt2), allow_local=True)
    model = engine._worker.model
    assert model.causal_lm.aliases["lm_head.weight"] == model.causal_lm.aliases["transformer.wte.weight"]
    assert {tensor.device.type for tensor in model.causal_lm.module.parameters()} == {"meta"}
    assert {tensor.device.type for tensor in model.causal_lm.module.buffers()} <= {"meta"}
    assert record.model.num_parameters == sum(p.numel() for p in model.causal_lm.module.parameters())


def test_two_devices_give_the_same_tokens_as_one(engine, tiny_llama):
    one = engine.generate(request_to(tiny_llama), allow_local=True)
    two = engine.generate(request_to(tiny_llama, tensor_parallel=2), allow_local=True)
    assert two.token_ids == one.token_ids
    assert two.environment.mesh.size == 2
    q_proj = engine._worker.model.weights["model.layers.0.self_attn.q_proj.weight"]
    assert {shard.data.shape for shard in q_proj.addressable_shards} == {(32, 64)}
    again = engine.generate(request_to(tiny_llama, tensor_parallel=2, seed=3), allow_local=True)
    assert again.summary.num_compiles == 0


def test_a_mesh_larger_than_the_devices_is_refused(engine, tiny_llama):
    with pytest.raises(InvalidRequestError, match="64 were asked for but this process has"):
        engine.generate(request_to(tiny_llama, tensor_parallel=64), allow_local=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_halves_weights_and_cache(engine, tiny_llama, dtype):
    whole = engine.generate(request_to(tiny_llama), allow_local=True)
    half = engine.generate(request_to(tiny_llama, dtype=dtype), allow_local=True)
    eager = engine.generate(request_to(tiny_llama, dtype=dtype, mode="eager", max_new_tokens=2), allow_local=True)
    assert len(half.token_ids) == 8
    assert half.token_ids[0] == eager.token_ids[0]
    assert half.summary.kv_bytes * 2 == whole.summary.kv_bytes
    assert half.model.weights_bytes < whole.model.weights_bytes * 0.51


def test_a_tokenizer_of_another_model_is_refused(engine, tmp_path):
    folder = write_architecture("llama", tmp_path / "mismatched", vocab_size=40)
    with pytest.raises(ModelLoadError, match=r"gives token .* where the model knows 0 to 39"):
        engine.generate(request_to(str(folder)), allow_local=True)


def test_closing_the_engine_stops_everyone_and_refuses_the_next(tiny_llama):
    engine = InferenceEngine(Settings())
    running = engine.submit(request_to(tiny_llama, max_new_tokens=400), allow_local=True)
    waiting = engine.submit(request_to(tiny_llama), allow_local=True)
    until_first_step(running)
    engine.close()
    assert running.result().finish_reason == "stopped"
    with pytest.raises(RequestStoppedError):
        waiting.result()
    assert not engine.is_alive()
    with pytest.raises(EngineClosedError, match="closed"):
        engine.submit(request_to(tiny_llama))


def test_loading_can_be_stopped(tiny_llama, monkeypatch):
    from hfjax_demo.inference import worker as worker_module

    is_loading, may_continue = threading.Event(), threading.Event()
    find_model = worker_module.find_model

    def slow(*arguments):
        is_loading.set()
        may_continue.wait(10)
        return find_model(*arguments)

    monkeypatch.setattr(worker_module, "find_model", slow)
    with InferenceEngine(Settings()) as engine:
        stream = engine.submit(request_to(tiny_llama), allow_local=True)
        assert is_loading.wait(10)
        stream.close()
        may_continue.set()
        with pytest.raises(RequestStoppedError):
            stream.result()
        monkeypatch.undo()
        assert engine.generate(request_to(tiny_llama), allow_local=True).finish_reason == "length"


def test_times_add_up(engine, tiny_llama):
    record = engine.generate(request_to(tiny_llama, mode="jit", max_cache_len=300), allow_local=True)
    summary = record.summary
    assert summary.num_compiles >= 2
    assert summary.total_s == pytest.approx(sum(step.duration_s for step in record.steps))
    parts = summary.prefill_s + summary.decode_s + summary.trace_s + summary.compile_s
    assert summary.total_s == pytest.approx(parts)
    assert all(step.duration_s >= step.trace_s + step.compile_s >= 0 for step in record.steps)
    assert summary.peak_rss_bytes >= summary.rss_bytes > 0
