"""What JAX compiles is recorded with its name; nested work is counted once; other threads' work is not ours."""

import threading

import jax
import jax.numpy as jnp
import pytest

from hfjax_demo.inference.compile_log import COMPILE_EVENT, TRACE_EVENTS, CompileLog, Span, recording, union_s


def span(start, end, name="step", event=TRACE_EVENTS[0]):
    return Span(event, name, start, end)


def test_overlapping_spans_are_counted_once():
    assert union_s([span(0, 10), span(2, 3), span(9, 12), span(20, 21)]) == 13


def test_nested_traces_belong_to_their_caller_and_compiling_is_not_tracing():
    log = CompileLog([span(1, 2, "inner"), span(0, 10), span(10, 14, event=COMPILE_EVENT)])
    assert log.trace_s == 10
    assert log.compile_s == 4
    assert log.num_compiles == 1
    (program,) = log.programs({"step": "because"})
    assert (program.name, program.count, program.trace_s, program.compile_s) == ("step", 1, 10, 4)
    assert program.reason == "because"


def test_a_compilation_is_recorded_once_with_its_name():
    @jax.jit
    def a_new_function(x):
        return jnp.sin(x) + 1

    argument = jnp.ones(3)
    with recording() as first:
        a_new_function(argument)
    with recording() as second:
        a_new_function(argument)
    assert any("a_new_function" in program.name for program in first.programs({}))
    assert first.num_compiles >= 1
    assert first.compile_s > 0
    assert second.spans == []


def test_work_of_other_threads_is_not_recorded():
    worker = threading.Thread(target=lambda: jax.jit(lambda x: x * 3.25)(jnp.ones(7)).block_until_ready())
    with recording() as log:
        worker.start()
        worker.join()
    assert log.spans == []


def test_recording_ends_when_the_block_raises():
    with pytest.raises(ValueError, match="boom"), recording() as log:
        raise ValueError("boom")
    jax.jit(lambda x: x * 2.5)(jnp.ones(5))
    assert log.spans == []
