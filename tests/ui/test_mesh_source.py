"""Behind the Mesh tab: what its inputs may say, what may be run, and which run a plan is held against."""

import asyncio
from dataclasses import replace

import pytest

from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.settings import Settings
from hfjax_demo.ui.kv_cache_tab import load_recorded_runs
from hfjax_demo.ui.mesh_source import (
    NEW_TOKENS,
    find_measured,
    make_plan,
    model_choices,
    request_of,
    state_words,
    why_not_run,
)
from hfjax_demo.ui.run_history import RunHistory, export_json, import_json
from tests.conftest import DEVICES
from tests.ui.mesh_examples import report_of

pytestmark = pytest.mark.xdist_group("engine")

INPUTS = {"model": "SmolLM2-135M-Instruct", "size": 3, "dtype": "float32", "context_len": 256}


def plan(engine, **changes):
    return asyncio.run(make_plan(engine, list((INPUTS | changes).values())))


def run_on(made):
    """The recorded run, as if it had been made on the planned mesh."""
    fixed, report = load_recorded_runs()["recorded jit"], report_of(made)
    mesh = replace(made.mesh, devices=tuple(device.device for device in report.devices))
    request = replace(fixed.request, tensor_parallel=made.mesh.size)
    return replace(fixed, mesh=report, request=request, environment=replace(fixed.environment, mesh=mesh))


def test_a_plan_is_made_for_any_size_and_an_empty_context_is_the_models_own(engine):
    made = plan(engine, size=24)
    assert (made.mesh.size, made.context_len) == (24, 256)
    assert plan(engine, context_len=None).context_len == 8192


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 0}, "tensor_parallel must be from 1"),
        ({"size": None}, "tensor-parallel size must be a whole number from 1 but is empty"),
        ({"size": 10**9}, "1000000000"),
        ({"context_len": -1}, "context_len must be from 1"),
        ({"model": ""}, "A model must be named"),
        ({"model": None}, "A model must be named"),
    ],
)
def test_what_cannot_be_planned_says_the_rule_the_numbers_and_a_way_out(engine, changes, said):
    with pytest.raises(InvalidRequestError, match=said) as caught:
        plan(engine, **changes)
    assert str(caught.value).endswith(".")


def test_a_mesh_is_run_only_where_this_process_has_its_devices(engine):
    here = engine.status().environment
    assert why_not_run(plan(engine, size=2), engine.settings, here) is None
    larger = why_not_run(plan(engine, size=DEVICES + 1), engine.settings, here)
    assert larger == (f"This process has {DEVICES} devices and cannot run it: start it with --devices {DEVICES + 1}.")
    assert "nothing to measure" in why_not_run(plan(engine, size=1), engine.settings, here)
    assert "without its weights" in why_not_run(plan(engine, model="Llama-3.1-8B", size=2), engine.settings, here)
    beyond = plan(engine, size=2, context_len=engine.settings.max_cache_len + 1)
    assert "Plan for fewer" in why_not_run(beyond, engine.settings, here)
    only_gpt2 = replace(engine.settings, models="GPT-2")
    assert "must be one of GPT-2 here" in why_not_run(plan(engine, size=2), only_gpt2, here)


def test_a_plan_beyond_the_devices_is_called_planned_and_says_what_to_do(engine):
    made = plan(engine, size=8)
    words = state_words(made, None, "This process has 2 devices and cannot run it: start it with --devices 8.")
    assert words.startswith("from the config; nothing has run on this mesh yet. This process has 2 devices")


def test_the_run_is_jit_over_a_fixed_cache_of_exactly_the_planned_length():
    request = request_of([*INPUTS.values(), "hello"])
    assert (request.mode, request.cache, request.max_cache_len) == ("jit", "static", 256)
    assert (request.tensor_parallel, request.max_new_tokens) == (3, NEW_TOKENS)


def test_a_plan_is_held_against_the_newest_run_on_the_same_mesh(engine):
    made = plan(engine, context_len=2048)
    record = run_on(plan(engine))
    history = RunHistory().add(record).add(record).add(replace(record, mesh=None))
    found = asyncio.run(find_measured(engine, history, (), made))
    assert found.name == "run 2"
    assert found.plan.context_len == record.steps[0].kv[0].capacity == 256, "compared at the run's own cache length"
    assert [said for said in found.agreement.differences if not said.startswith("all-reduce")] == []
    assert "that run's 256 positions" in state_words(made, found, None)
    assert asyncio.run(find_measured(engine, history, (found,), made)) is found, "it is not read again"
    for other in (plan(engine, size=2), plan(engine, dtype="bfloat16"), plan(engine, model="GPT-2")):
        assert asyncio.run(find_measured(engine, history, (found,), other)) is None


def test_a_run_from_a_file_is_not_taken_for_one_of_this_machine(engine):
    record = import_json(export_json(run_on(plan(engine))).encode())
    history = RunHistory().add(record, is_imported=True)
    assert asyncio.run(find_measured(engine, history, (), plan(engine))) is None


def test_the_picker_has_what_may_be_run_first_and_every_bundled_config_once():
    names = [name for _, name in model_choices(Settings(models="GPT-2"))]
    assert names[0] == "GPT-2"
    assert len(names) == len(set(names))
    assert "Llama-3.1-405B" in names
