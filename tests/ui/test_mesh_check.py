"""A record's mesh may come from anyone: it is taken only where a run can have had it, and it stays small when kept."""

import gzip
import json
from dataclasses import replace

import pytest

from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import Mesh, RunRecord
from hfjax_demo.mesh_report import Collective, DeviceUse, MeshReport, PlacedArray, ProgramCollectives
from hfjax_demo.plain_json import from_dict
from hfjax_demo.ui.components import ASSETS
from hfjax_demo.ui.record_check import MAX_WEIGHTS, check_record
from hfjax_demo.ui.run_history import RunHistory, export_json, import_json

NAMES = ("cpu:0", "cpu:1", "cpu:2")
SIZE = len(NAMES)
WHOLE = from_dict(RunRecord, json.loads(gzip.decompress((ASSETS / "recorded_run.json.gz").read_bytes())))
"""A real run on one device: SmolLM2, jit over a fixed cache, 3 KV heads."""


def split(name, shape, axis):
    shard_shape = tuple(size // SIZE if index == axis else size for index, size in enumerate(shape))
    spec = tuple("model" if index == axis else None for index in range(len(shape)))
    num_bytes = 4
    for size in shard_shape:
        num_bytes *= size
    return PlacedArray(name, shape, spec, shard_shape, num_bytes)


def of_layer(number):
    attention, mlp = f"model.layers.{number}.self_attn", f"model.layers.{number}.mlp"
    return (
        split(f"{attention}.q_proj.weight", (576, 576), 0),
        split(f"{attention}.k_proj.weight", (192, 576), 0),
        split(f"{attention}.v_proj.weight", (192, 576), 0),
        split(f"{attention}.o_proj.weight", (576, 576), 1),
        split(f"{mlp}.gate_proj.weight", (1536, 576), 0),
        split(f"{mlp}.up_proj.weight", (1536, 576), 0),
        split(f"{mlp}.down_proj.weight", (576, 1536), 1),
        PlacedArray(f"model.layers.{number}.input_layernorm.weight", (576,), (), (576,), 2304),
        PlacedArray(f"model.layers.{number}.post_attention_layernorm.weight", (576,), (), (576,), 2304),
    )


WEIGHTS = (
    split("model.embed_tokens.weight", (49152, 576), 0),
    *(array for number in range(30) for array in of_layer(number)),
    PlacedArray("model.norm.weight", (576,), (), (576,), 2304),
)
KV = tuple(
    split(f"layer {layer.layer} {what}", shape, 1)
    for layer in WHOLE.steps[-1].kv
    for what, shape in (("keys", layer.key_shape), ("values", layer.value_shape))
)
PROGRAM = ProgramCollectives(
    "decode_step 1 token, kvcache 256 fixed",
    (Collective("all-reduce", 61, 140_544), Collective("all-gather", 5, 196_656, is_conditional=True)),
)


def held(arrays):
    return sum(array.bytes_per_device for array in arrays)


REPORT = MeshReport(1, tuple(DeviceUse(name, 0, held(WEIGHTS), held(KV)) for name in NAMES), WEIGHTS, KV, (PROGRAM,))
RECORD = replace(WHOLE, environment=replace(WHOLE.environment, mesh=Mesh("model", SIZE, NAMES)), mesh=REPORT)


def with_weight(**changes):
    """The report with another first weight, the devices' sums adapted."""
    weights = (replace(WEIGHTS[0], **changes), *WEIGHTS[1:])
    devices = tuple(replace(device, weights_bytes=held(weights)) for device in REPORT.devices)
    return replace(REPORT, weights=weights, devices=devices)


def with_device(**changes):
    return replace(REPORT, devices=(replace(REPORT.devices[0], **changes), *REPORT.devices[1:]))


def with_collective(**changes):
    first, *others = PROGRAM.collectives
    return replace(REPORT, programs=(replace(PROGRAM, collectives=(replace(first, **changes), *others)),))


def test_a_run_on_a_mesh_survives_export_and_import():
    assert import_json(export_json(RECORD).encode()) == RECORD


def test_a_run_on_a_mesh_is_small_when_kept():
    """272 weights are 50 kB of JSON, much of it the same in every layer."""
    without, with_mesh = (RunHistory().add(record).runs[0].packed for record in (replace(RECORD, mesh=None), RECORD))
    assert len(with_mesh) - len(without) < 4_000


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (replace(REPORT, devices=REPORT.devices[:2]), "must be the 3 of the mesh but are 2 others"),
        (with_device(device="cpu:7"), "must be the 3 of the mesh but are 3 others"),
        (with_device(process=1), "must belong to 1 processes in all but belong to 2"),
        (replace(REPORT, num_processes=10**9), "must belong to 1000000000 processes in all but belong to 1"),
        (with_device(weights_bytes=5), f"must hold the parts told of, {held(WEIGHTS)} bytes .* 'cpu:0' holds 5"),
        (with_device(kv_bytes=2**53), "kv_bytes must be from 0"),
        (replace(REPORT, weights=(*WEIGHTS, WEIGHTS[0])), "weights on a mesh must have a name each"),
        (replace(REPORT, weights=WEIGHTS[:1] * (MAX_WEIGHTS + 1)), f"weights may have at most {MAX_WEIGHTS} items"),
        (with_weight(name="x" * 5000), "name may have at most 4096 characters"),
        (with_weight(spec=("data", None)), "must be split over 'model' on one of its axes, or on none"),
        (with_weight(spec=("model", "model")), "must be split over 'model' on one of its axes, or on none"),
        (with_weight(spec=("model",)), "must be split over 'model' on one of its axes, or on none"),
        (with_weight(spec=(None, None)), "must be split over 'model' on one of its axes, or on none"),
        (with_weight(spec=("x" * 9, None)), "spec may have at most 8 characters"),
        (with_weight(spec=()), "must be 3 equal parts on a split axis and whole on others"),
        (with_weight(shard_shape=(16384, 575)), "must be 3 equal parts"),
        (with_weight(shard_shape=(16384, 576, 1)), "must be 3 equal parts"),
        (with_weight(shard_shape=(16384,)), "must be 3 equal parts"),
        (with_weight(shape=(1,) * 9), "shape may have at most 8 items"),
        (with_weight(shape=(2**52, 1), shard_shape=(2**52, 1), spec=()), "must have 1, 2, 4 or 8 bytes an item but 450359"),
        (with_weight(bytes_per_device=WEIGHTS[0].bytes_per_device * 3), "must have 1, 2, 4 or 8 bytes an item but 9437184"),
        (replace(REPORT, kv=KV[:-1], devices=REPORT.devices), "must hold the parts told of"),
        (replace(REPORT, kv=(split(KV[0].name, (1, 3, 64, 256), 1), *KV[1:])), "shapes of the last step's"),
        (replace(REPORT, programs=(PROGRAM, PROGRAM)), "programs of a run must have a name each"),
        (with_collective(kind="broadcast"), "communication must be one of all-reduce, .* but is 'broadcast'"),
        (with_collective(count=0), "must happen but all-reduce has a count of 0"),
        (with_collective(kind="all-gather", is_conditional=True), "must tell of each kind of communication once"),
        (with_collective(bytes=-1), "bytes must be from 0"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_mesh_that_no_run_can_have_had_is_refused_with_its_rule(report, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        check_record(replace(RECORD, mesh=report))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh("model", 1, NAMES[:1]), "must have at least 2 devices but has 1"),
        (Mesh("model", 10**9, NAMES), "must be the 1000000000 of the mesh but are 3"),
        (Mesh("model", SIZE, ("cpu:0",) * SIZE), "must be the 3 of the mesh"),
        (Mesh("data", SIZE, NAMES), "must be split over 'data'"),
    ],
)
def test_a_report_that_is_of_another_mesh_is_refused(mesh, message):
    with pytest.raises(InvalidRequestError, match=message):
        check_record(replace(RECORD, environment=replace(RECORD.environment, mesh=mesh)))


def test_devices_of_one_name_are_refused():
    names = ("cpu:0",) * SIZE
    devices = tuple(replace(device, device="cpu:0") for device in REPORT.devices)
    environment = replace(RECORD.environment, mesh=Mesh("model", SIZE, names))
    with pytest.raises(InvalidRequestError, match="devices of a mesh must have a name each"):
        check_record(replace(RECORD, environment=environment, mesh=replace(REPORT, devices=devices)))


def test_an_eager_run_has_no_programs():
    eager = replace(RECORD, request=replace(RECORD.request, mode="eager"))
    with pytest.raises(InvalidRequestError, match="no programs to read but 1 are named"):
        check_record(eager)
    check_record(replace(eager, mesh=replace(REPORT, programs=())))
