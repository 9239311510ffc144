"""A run held against its plan: agreement is told only where every array, device and collective is as planned."""

from dataclasses import replace

import pytest

from hfjax_demo.mesh_agreement import MeshKey, agreement, decode_collectives, mesh_key
from hfjax_demo.mesh_report import Collective, ProgramCollectives
from hfjax_demo.mesh_tables import MAX_DEVICES, collectives_table, devices_table, spec_text
from hfjax_demo.ui.kv_cache_tab import load_recorded_runs
from tests.ui.mesh_examples import report_of, with_rules

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture(scope="module")
def plan(engine):
    """SmolLM2 over three devices, which its heads divide by."""
    return with_rules(engine.inspect("SmolLM2-135M-Instruct", context_len=256, tensor_parallel=3))


def changed(items, index, **fields):
    return (*items[:index], replace(items[index], **fields), *items[index + 1 :])


def only_difference(plan, report):
    (difference,) = agreement(plan, report).differences
    return difference


def test_a_run_that_lay_as_planned_agrees_and_its_buffers_are_told_apart(plan):
    held = agreement(plan, report_of(plan))
    assert held.differences == ()
    assert held.num_arrays == len(plan.weights.tensors) + 2 * 30
    assert (held.num_buffers, held.buffer_bytes, held.has_program) == (1, 128, True)


def test_a_spec_that_splits_nothing_is_the_same_however_it_is_spelled(plan):
    report = report_of(plan)
    index = next(index for index, array in enumerate(report.weights) if array.spec == ())
    spelled = changed(report.weights, index, spec=(None,) * len(report.weights[index].shape))
    assert agreement(plan, replace(report, weights=spelled)).differences == ()


def test_a_weight_that_lies_otherwise_is_named_with_both_shapes(plan):
    report = report_of(plan)
    names = [array.name for array in report.weights]
    index = names.index("model.layers.0.self_attn.q_proj.weight")
    whole = changed(report.weights, index, spec=(), shard_shape=(576, 576), bytes_per_device=4 * 576 * 576)
    said = only_difference(plan, replace(report, weights=whole))
    assert said.startswith("model.layers.0.self_attn.q_proj.weight: planned (192, 576) of (576, 576) a device")
    assert "the run has (576, 576)" in said


def test_an_array_that_is_missing_a_device_that_holds_more_and_a_device_too_few_are_each_told(plan):
    report = report_of(plan)
    assert only_difference(plan, replace(report, kv=report.kv[1:])).startswith("layer 0 keys: planned, but")
    more = changed(report.devices, 1, kv_bytes=report.devices[1].kv_bytes + 4)
    assert only_difference(plan, replace(report, devices=more)).startswith(f"{report.devices[1].device}: ")
    assert "is for 3 devices; the run had 2" in only_difference(plan, replace(report, devices=report.devices[:2]))


def test_communication_is_compared_by_kind_in_count_and_bytes(plan):
    report = report_of(plan)
    ((program, found),) = [(each.program, each.collectives) for each in report.programs[1:]]
    other = ProgramCollectives(program, (*found, Collective("all-gather", 1, 196_608)))
    said = only_difference(plan, replace(report, programs=(report.programs[0], other)))
    assert said == ("all-gather: theory asks for 0 a step with 0 bytes; the compiled decode step has 1 with 196,608 bytes.")


def test_what_stands_in_a_branch_is_told_and_not_compared(plan):
    report = report_of(plan)
    step = replace(report.programs[1], collectives=(*report.programs[1].collectives, Collective("all-gather", 2, 8, True)))
    report = replace(report, programs=(report.programs[0], step))
    assert agreement(plan, report).differences == ()
    assert collectives_table(plan, report)[1][-1][:5] == ["all-gather, not at every call", None, None, 2, 8]


def test_an_eager_run_has_no_program_to_compare(plan):
    report = replace(report_of(plan), programs=())
    assert decode_collectives(report) is None
    assert (agreement(plan, report).differences, agreement(plan, report).has_program) == ((), False)


def test_a_run_is_compared_by_model_size_and_dtype_and_only_over_a_fixed_cache(plan):
    fixed, growing = (replace(record, mesh=report_of(plan)) for record in load_recorded_runs().values())
    assert mesh_key(fixed) == MeshKey("HuggingFaceTB/smollm2-135m-INSTRUCT", 3, "float32")
    assert mesh_key(growing) is None
    assert mesh_key(replace(fixed, mesh=None)) is None


def test_tables_have_planned_and_measured_side_by_side(plan):
    headers, rows = devices_table(plan, report_of(plan))
    assert [row[0] for row in rows] == ["TFRT_CPU_0", "TFRT_CPU_1", "TFRT_CPU_2"]
    assert all(len(row) == len(headers) and row[3] == row[1] + 128 for row in rows)
    headers, rows = collectives_table(plan, report_of(plan))
    assert all(len(row) == len(headers) for row in rows)
    assert rows[-1][:5] == ["all-reduce, in all", *rows[-1][3:5], *rows[-1][3:5]]
    assert len(collectives_table(plan, None)[0]) == len(headers) - 2


def test_a_huge_planned_mesh_has_a_short_table(plan):
    rows = devices_table(replace(plan, mesh=replace(plan.mesh, size=65_536)), None)[1]
    assert len(rows) == MAX_DEVICES + 1
    assert rows[-1][0] == f"and {65_536 - MAX_DEVICES:,} more like these"


@pytest.mark.parametrize(
    ("spec", "said"), [((), "P()"), (("model", None), "P('model', None)"), ((None, "model"), "P(None, 'model')")]
)
def test_a_spec_reads_as_jax_writes_it(spec, said):
    assert spec_text(spec) == said
