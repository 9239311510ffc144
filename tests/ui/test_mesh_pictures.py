"""The Mesh tab's pictures and words: what is drawn of a plan and of a run, and that no name in either becomes markup."""

import functools
import html
import re
from dataclasses import replace

import pytest

from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.mesh_agreement import agreement
from hfjax_demo.model_plan import ParallelRule
from hfjax_demo.ui.array_cut import MAX_PARTS, cut_html, drawn_arrays, first_label, measured_array
from hfjax_demo.ui.device_bars import MAX_DEVICES, devices_html, planned_bytes
from hfjax_demo.ui.layer_flow import flow_html, layer_flow
from hfjax_demo.ui.mesh_html import (
    MAX_DIFFERENCES,
    MeasuredMesh,
    agreement_html,
    collectives_html,
    devices_table_html,
    rules_html,
    summary_html,
    weights_html,
)
from tests.ui.mesh_examples import report_of, with_rules

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture(scope="module")
def plan_of(engine):
    @functools.cache
    def made(model="SmolLM2-135M-Instruct", size=3):
        return with_rules(engine.inspect(model, context_len=256, tensor_parallel=size))

    return made


def text_in(markup):
    return html.unescape(re.sub(r"<[^>]+>", " ", markup))


def measured(plan, report=None):
    report = report or report_of(plan)
    return MeasuredMesh("run 3", plan, report, agreement(plan, report))


def array_named(plan, part):
    return next(array for label, array in drawn_arrays(plan).items() if part in label)


def kinds(plan):
    return [step.title if step.kind == "sum" else step.kind for step in layer_flow(plan)]


def test_the_bars_of_a_device_add_up_to_what_it_holds(plan_of):
    plan = plan_of()
    held = planned_bytes(plan)
    assert held.total == plan.weights.bytes_per_device + plan.kv_cache.bytes_per_device
    whole = sum(tensor.bytes_per_device for tensor in plan.weights.tensors if not any(tensor.spec))
    assert held.whole == whole
    widths = [float(width) for width in re.findall(r'class="is-\w+" style="width:([\d.]+)%', devices_html(plan))]
    share = 100 * held.total / (plan.weights.total_bytes + plan.kv_cache.total_bytes)
    assert sum(widths[:3]) == pytest.approx(share, abs=0.01)
    assert len(widths) == 3 * 3


def test_a_plan_is_never_drawn_as_measured_and_a_run_stands_beside_it(plan_of):
    plan = plan_of()
    assert "measured" not in devices_html(plan)
    drawn = devices_html(plan, report_of(plan))
    assert drawn.count('data-kind="planned"') == drawn.count('data-kind="measured"') == 3
    assert "TFRT_CPU_2" in drawn


def test_of_a_huge_mesh_the_first_devices_are_drawn_and_the_rest_counted(plan_of):
    drawn = devices_html(plan_of(size=1024))
    assert drawn.count('<li class="mesh-device">') == MAX_DEVICES
    assert f"and {1024 - MAX_DEVICES:,} more" in drawn


def test_a_split_array_is_cut_along_its_axis_each_part_with_device_and_shape(plan_of):
    plan = plan_of()
    column, row = array_named(plan, "gate_proj"), array_named(plan, "down_proj")
    assert (column.axis_names, row.axis_names) == (("outputs", "inputs"), ("outputs", "inputs"))
    drawn = cut_html(column, 3)
    assert "is-down" in drawn
    for index in range(3):
        assert f"<b>device {index}</b> <code>(512, 576)</code>" in drawn
    assert "P('model', None)" in text_in(drawn)
    assert "is-across" in cut_html(row, 3)


def test_a_replicated_array_is_drawn_whole_once_for_each_device(plan_of):
    norm = array_named(plan_of(), "input_layernorm")
    drawn = cut_html(norm, 3)
    assert "each device holds all of it" in drawn
    assert drawn.count("cut-copy") == 3
    assert "is-down" not in drawn


def test_the_cache_is_cut_between_kv_heads_or_says_why_not(plan_of):
    keys = array_named(plan_of(size=3), "keys of a layer")
    assert (keys.shape, keys.shard_shape, keys.spec) == ((1, 3, 256, 64), (1, 1, 256, 64), (None, "model", None, None))
    assert "1 of 3 on each device" in text_in(cut_html(keys, 3))
    whole = array_named(plan_of(size=2), "keys of a layer")
    assert whole.spec == ()
    assert "3 KV heads do not divide by 2 devices" in text_in(cut_html(whole, 2))
    assert keys.label == whole.label, "what was picked stays picked at another size"


def test_of_many_parts_the_first_and_the_last_are_drawn(plan_of):
    drawn = cut_html(array_named(plan_of("Llama-3.1-405B", 32), "gate_proj"), 32)
    assert drawn.count('class="cut-part"') == MAX_PARTS
    assert "device 31" in drawn
    assert f"{32 - MAX_PARTS} more" in drawn


def test_keys_and_values_of_other_shapes_are_two_arrays(plan_of):
    labels = [label for label in drawn_arrays(plan_of("DeepSeek-V3", 8)) if "of a layer" in label]
    assert [label.split()[0] for label in labels] == ["keys", "values"]


def test_the_first_array_shown_is_one_of_a_layer_that_is_cut(plan_of):
    plan = plan_of()
    first = drawn_arrays(plan)[first_label(drawn_arrays(plan))]
    assert (first.name, first.split_axis) == ("model.layers.*.self_attn.q_proj.weight", 0)
    assert first_label({}) is None


def test_the_picture_says_whether_the_runs_array_lay_so(plan_of):
    plan = plan_of()
    array, report = array_named(plan, "gate_proj"), report_of(plan)
    assert measured_array(array, report).name == "model.layers.0.mlp.gate_proj.weight"
    assert "on each device: as planned" in text_in(cut_html(array, 3, report))
    moved = tuple(replace(each, shard_shape=(1536, 576), spec=()) for each in report.weights)
    assert "NOT as planned" in text_in(cut_html(array, 3, replace(report, weights=moved)))


def test_a_layer_speaks_after_each_row_parallel_half_and_only_there(plan_of):
    both = plan_of(size=3)
    halves = ["weights", "data", "weights", "ALL-REDUCE", "weights", "weights", "ALL-REDUCE"]
    assert kinds(both) == ["data", *halves, "data"]
    assert "3 of 9 query heads a device" in text_in(flow_html(both))
    assert "(1, 1, 576), 2.3 kB" in text_in(flow_html(both))
    assert kinds(plan_of(size=2)).count("ALL-REDUCE") == 1
    assert "3 of 3 KV heads a device" in text_in(flow_html(plan_of(size=2)))


def test_projections_of_different_fates_each_say_theirs(plan_of):
    said = text_in(flow_html(plan_of("Llama-3.1-70B", 16)))
    assert "q_proj: column-parallel" in said
    assert "k_proj v_proj: whole on each device" in said


def test_outputs_that_are_gathered_are_an_all_gather(plan_of):
    plan = plan_of(size=2)
    shapes = {"c_attn": (576, 1728), "c_proj": (576, 576)}
    fused, output = (
        ParallelRule(f"h.*.attn.{name}.weight", style, "our table", shape, spec, shape, reason, 12, 4, 2)
        for (name, shape), style, spec, reason in zip(
            shapes.items(),
            ("column-parallel", "row-parallel"),
            ((None, "model"), ("model", None)),
            ("column-parallel, outputs gathered: q, k and v are one matrix", "row-parallel"),
            strict=True,
        )
    )
    assert kinds(replace(plan, rules=(fused, output)))[1:5] == ["weights", "ALL-GATHER", "data", "weights"]
    assert "9 of 9 query heads a device" in text_in(flow_html(replace(plan, rules=(fused, output))))
    assert f"(1, 1, 576), {576 * DTYPE_BYTES['float32'] / 1e3:.1f} kB" in text_in(
        flow_html(replace(plan, rules=(fused, output)))
    )


def test_a_layer_of_experts_sums_what_each_active_one_gives(plan_of):
    plan = plan_of(size=2)
    reasons = ("one all-gather joins gates and ups", "one all-reduce sums the outputs")
    names, specs = ("gate_up_proj", "down_proj"), ((None, "model", None), (None, None, "model"))
    rules = tuple(
        ParallelRule(
            f"h.*.mlp.experts.{name}", "expert-internal", "our table", (8, 64, 64), spec, (8, 32, 64), reason, 2, 4, 2
        )
        for name, spec, reason in zip(names, specs, reasons, strict=True)
    )
    assert kinds(replace(plan, rules=rules)) == ["data", "weights", "ALL-GATHER", "weights", "ALL-REDUCE", "data"]
    assert "(1, 1, 64), 256 bytes an active expert" in text_in(flow_html(replace(plan, rules=rules)))


def test_without_rules_or_devices_the_flow_is_one_sentence(plan_of):
    plan = plan_of()
    assert "<ol" not in flow_html(replace(plan, rules=()))
    assert "One device holds everything" in flow_html(plan_of(size=1))


def test_plan_and_run_agree_or_the_page_says_exactly_what_differs(plan_of):
    plan = plan_of()
    assert "Plan and run agree." in agreement_html(measured(plan))
    assert agreement_html(None) == ""
    report = report_of(plan)
    held = tuple(replace(device, kv_bytes=7) for device in report.devices)
    said = text_in(agreement_html(measured(plan, replace(report, devices=held, kv=()))))
    assert "Plan and run differ: 63 differences." in said
    assert f"and {63 - MAX_DIFFERENCES} more" in said
    assert "agree" not in said


def test_theory_stands_beside_the_compiled_program_only_where_there_is_one(plan_of):
    plan = plan_of()
    assert "compiled" not in collectives_html(plan, None)
    both = text_in(collectives_html(plan, report_of(plan)))
    assert "Times, in the compiled step" in both
    alone = replace(plan, collectives=())
    assert "No communication" in collectives_html(alone, None)


def test_rules_and_weights_are_tables_with_their_csv(plan_of):
    plan = plan_of()
    assert 'download="mesh-rules.csv"' in rules_html(plan)
    assert "(576, 576) → (192, 576)" in text_in(rules_html(plan))
    assert weights_html(plan).count("<tr>") == 1 + 272
    large = weights_html(plan_of("Llama-3.1-405B", 32))
    assert "more rows are left out here; the CSV has all" in text_in(large)
    assert rules_html(replace(plan, rules=())).startswith("<p")


def test_no_name_becomes_markup(plan_of):
    hostile = "<img src=x onerror=alert(1)>"
    plan = plan_of()
    rules = tuple(
        replace(rule, pattern=f"h.*.{hostile}", style=hostile, reason=hostile, origin=hostile) for rule in plan.rules
    )
    sends = tuple(replace(each, kind=hostile, reason=hostile) for each in plan.collectives)
    mesh = replace(plan.mesh, axis=hostile)
    plan = replace(plan, rules=rules, collectives=sends, mesh=mesh, model=hostile, architecture=hostile, dtype="float32")
    report = report_of(plan)
    report = replace(report, devices=tuple(replace(device, device=hostile, kv_bytes=1) for device in report.devices))
    run = replace(measured(plan, report), name=hostile)
    drawn = [devices_html(plan, report), flow_html(plan), rules_html(plan), weights_html(plan), agreement_html(run)]
    drawn += [collectives_html(plan, report), devices_table_html(plan, report), summary_html(plan, run, hostile)]
    drawn += [cut_html(array, 3, report) for array in drawn_arrays(plan).values()]
    assert "<img" not in "".join(drawn)
