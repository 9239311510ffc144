"""What a record says of its mesh is what lies on the devices, and that is what was planned."""

from collections import Counter

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hfjax_demo import cli
from hfjax_demo.errors import DeviceError
from hfjax_demo.inference import programs
from hfjax_demo.inference.device_mesh import MODEL_AXIS, make_mesh
from hfjax_demo.inference.inspection import inspect_model
from hfjax_demo.inference.mesh_reading import read_arrays
from hfjax_demo.mesh_report import PlacedArray
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui.run_history import export_json, import_json

NUM_LAYERS = 2

pytestmark = pytest.mark.xdist_group("engine")


def run(engine, folder, **fields):
    request = GenerationRequest("the mesh", folder, **({"max_new_tokens": 3, "ignore_eos": True} | fields))
    return engine.generate(request, allow_local=True)


def plan_of(engine, record):
    numbers = {"context_len": record.steps[0].kv[0].capacity, "tensor_parallel": record.environment.mesh.size}
    return inspect_model(record.request.model, engine.settings, lambda *_: None, allow_local=True, **numbers)


def every_call(program):
    return {each.kind: each.count for each in program.collectives if not each.is_conditional}


@pytest.mark.parametrize("size", [4, 2])  # the tests that follow find the model over 2 devices
def test_weights_and_cache_lie_as_planned(engine, tiny_llama, size):
    """With 2 KV heads, so that the cache is split over 2 devices and whole on each of 4."""
    record = run(engine, tiny_llama, tensor_parallel=size)
    mesh, plan = record.mesh, plan_of(engine, record)
    placed = {array.name: array for array in mesh.weights}
    for planned in plan.weights.tensors:
        array = placed.pop(planned.name)
        for what in ("shape", "spec", "shard_shape", "bytes_per_device"):
            assert getattr(array, what) == getattr(planned, what), planned.name
    assert {array.spec for array in placed.values()} == {()}, "buffers are in no plan and on every device"

    layers = [layer for layer in plan.kv_cache.layers for _ in ("keys", "values")]
    assert [array.name for array in mesh.kv] == [f"layer {n} {what}" for n in range(2) for what in ("keys", "values")]
    assert [array.shape for array in mesh.kv] == [layer.key_shape for layer in layers]
    assert [array.spec for array in mesh.kv] == [(None, MODEL_AXIS, None, None) if size == 2 else ()] * len(layers)
    assert sum(array.bytes_per_device for array in mesh.kv) == plan.kv_cache.bytes_per_device


def test_each_device_holds_the_bytes_that_are_told(engine, tiny_llama):
    """Counted over the shards themselves, which the report never touches."""
    record = run(engine, tiny_llama, tensor_parallel=2)
    held = dict.fromkeys(record.environment.mesh.devices, 0)
    for array in engine._worker.model.weights.values():
        for shard in array.addressable_shards:
            held[str(shard.device)] += shard.data.nbytes
    assert {device.device: device.weights_bytes for device in record.mesh.devices} == held
    assert {device.kv_bytes for device in record.mesh.devices} == {record.summary.kv_bytes // 2}
    assert (record.mesh.num_processes, {device.process for device in record.mesh.devices}) == (1, {0})


def test_a_layer_sums_twice(engine, tiny_llama):
    """One all-reduce after the attention's output, one after the MLP's, and one of the embedding whose rows are split."""
    record = run(engine, tiny_llama, tensor_parallel=2)
    row_parallel = [array.name for array in record.mesh.weights if array.spec == (None, MODEL_AXIS)]
    assert len(row_parallel) == 2 * NUM_LAYERS
    prefill, decode_step = record.mesh.programs
    assert (prefill.program.split()[0], decode_step.program.split()[0]) == ("prefill", "decode_step")
    for program in (prefill, decode_step):
        assert every_call(program)["all-reduce"] == len(row_parallel) + 1
    theory = Counter()
    for each in plan_of(engine, record).collectives:
        theory[each.kind] += each.count
    assert every_call(decode_step) == theory


def test_programs_are_read_once_and_a_run_tells_of_its_own(engine, tiny_llama, monkeypatch):
    first = run(engine, tiny_llama, tensor_parallel=2)
    monkeypatch.setattr(programs, "collectives_in", lambda _: pytest.fail("read again"))
    assert run(engine, tiny_llama, tensor_parallel=2).mesh == first.mesh
    monkeypatch.undo()
    growing = run(engine, tiny_llama, tensor_parallel=2, cache="dynamic").mesh
    assert [program.program for program in growing.programs] == [
        "prefill 8 tokens, kvcache 0 growing",
        "decode_step 1 token, kvcache 8 growing",
        "decode_step 1 token, kvcache 9 growing",
    ]
    assert {array.shape[2] for array in growing.kv} == {10}


def test_eager_runs_are_read_too_but_for_programs(engine, tiny_llama):
    jit = run(engine, tiny_llama, tensor_parallel=2).mesh
    eager = run(engine, tiny_llama, tensor_parallel=2, mode="eager", cache="static", max_new_tokens=1).mesh
    assert eager.programs == ()
    assert (eager.devices, eager.weights, eager.kv) == (jit.devices, jit.weights, jit.kv)


def test_a_real_report_survives_export_and_import_and_is_one_line_on_the_terminal(engine, tiny_llama, capsys):
    record = run(engine, tiny_llama, tensor_parallel=2)
    assert import_json(export_json(record).encode()) == record
    cli._print_summary(record)
    line = capsys.readouterr().err.splitlines()[-1]
    (device, _), last = record.mesh.devices, record.mesh.programs[-1]
    assert f"on each, weights {device.weights_bytes / 1e6:.1f} MB, KV cache {device.kv_bytes / 1e6:.1f} MB" in line
    assert f"{last.program}: {every_call(last)['all-reduce']} all-reduce (" in line


def test_one_device_has_nothing_to_report(engine, tiny_llama):
    assert run(engine, tiny_llama).mesh is None
    assert engine._worker._programs._collectives == {}


@pytest.mark.parametrize(
    ("spelled", "spec", "shard_shape"),
    [
        (PartitionSpec(), (), (8, 6)),
        (PartitionSpec(None, None), (), (8, 6)),
        (PartitionSpec("model"), ("model", None), (4, 6)),
        (PartitionSpec(("model",), None), ("model", None), (4, 6)),
        (PartitionSpec(None, "model"), (None, "model"), (8, 3)),
    ],
)
def test_one_layout_is_told_in_one_way_however_it_is_spelled(spelled, spec, shard_shape):
    """Of a stand-in that has no data at all: parts that belong to another process could not be read either."""
    mesh = make_mesh(2)
    array = jax.ShapeDtypeStruct((8, 6), "bfloat16", sharding=NamedSharding(mesh, spelled))
    num_bytes = 2 * shard_shape[0] * shard_shape[1]
    read = read_arrays([("w", array)], mesh)
    assert read.arrays == (PlacedArray("w", (8, 6), spec, shard_shape, num_bytes),)
    assert read.bytes_by_device == dict.fromkeys(mesh.devices.flat, num_bytes)


def test_a_mesh_that_cannot_be_built_is_an_error_with_the_numbers(engine):
    """The last word where processes do not have as many devices each; a request is refused before."""
    num_devices = engine.settings.devices
    with pytest.raises(DeviceError, match=rf"{num_devices + 1} were asked for but there are {num_devices} \(cpu\)"):
        make_mesh(num_devices + 1)
