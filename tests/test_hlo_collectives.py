"""The communication of a program, read from programs compiled here and from lines as XLA prints them for GPUs."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hfjax_demo.inference.hlo_collectives import collectives_in
from hfjax_demo.mesh_report import Collective

DEVICES = 4


def on_mesh(*spec):
    mesh = jax.make_mesh((DEVICES,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:DEVICES])
    return NamedSharding(mesh, PartitionSpec(*spec))


def array(shape, *spec, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=on_mesh(*spec))


def compiled(function, *arrays, out):
    return jax.jit(function, out_shardings=out).lower(*arrays).compile().as_text()


def program(*lines):
    """A program of these lines alone."""
    return "\n".join(
        ["HloModule jit_step", "", "ENTRY %main (a: f32[4]) -> f32[4] {", *(f"  {line}" for line in lines), "}"]
    )


def test_a_row_parallel_product_is_one_all_reduce_of_its_result():
    hlo = compiled(jnp.matmul, array((8, 16), None, "model"), array((16, 32), "model"), out=on_mesh())
    assert collectives_in(hlo) == (Collective("all-reduce", 1, 8 * 32 * 4),)


def test_a_column_parallel_product_needs_nothing():
    hlo = compiled(jnp.matmul, array((8, 16)), array((16, 32), None, "model"), out=on_mesh(None, "model"))
    assert collectives_in(hlo) == ()


def test_gathering_and_moving_count_what_one_device_receives():
    hlo = compiled(lambda x: x, array((8, 16), "model", dtype="int32"), out=on_mesh())
    assert collectives_in(hlo) == (Collective("all-gather", 1, 8 * 16 * 4),)
    hlo = compiled(lambda x: x * 2, array((8, 16), "model"), out=on_mesh(None, "model"))
    assert collectives_in(hlo) == (Collective("all-to-all", 1, 8 * 16 * 4 // DEVICES),)
    hlo = compiled(lambda x: jnp.roll(x, 1, 0), array((8, 16), "model"), out=on_mesh("model"))
    assert collectives_in(hlo) == (Collective("collective-permute", 1, 16 * 4),)


def test_a_combined_operation_counts_once_with_all_its_bytes():
    """XLA joins sums that it can do together into one all-reduce that returns a tuple."""
    hlo = compiled(lambda x, y: (x.sum(0), y.sum(0)), array((8, 16), "model"), array((8, 4), "model"), out=on_mesh())
    assert collectives_in(hlo) == (Collective("all-reduce", 1, (16 + 4) * 4),)


def test_what_stands_in_a_branch_or_a_loop_is_told_apart():
    """Sampling has a branch for drawn tokens that gathers all logits: greedy decoding never runs it."""

    def sums(x):
        return jnp.broadcast_to(x.sum(0), x.shape)

    def step(flag, turns, x):
        summed = jax.lax.cond(flag, sums, lambda x: x, x)
        return jax.lax.fori_loop(0, turns, lambda _, x: sums(x), summed), x.max(0)

    scalars = (array((), dtype="bool"), array((), dtype="int32"))
    hlo = compiled(step, *scalars, array((8, 16), "model"), out=(on_mesh("model"), on_mesh()))
    found = {(each.kind, each.is_conditional): (each.count, each.bytes) for each in collectives_in(hlo)}
    assert found["all-reduce", True] == (2, 2 * 16 * 4)
    assert found["all-reduce", False] == (1, 16 * 4)


@pytest.mark.parametrize(
    ("lines", "collectives"),
    [
        (
            (
                "%start = (f32[1,576]{1,0}, f32[4,576]{1,0}) all-gather-start(%a), channel_id=1, dimensions={0}",
                "ROOT %done = f32[4,576]{1,0} all-gather-done(%start)",
            ),
            (Collective("all-gather", 1, 4 * 576 * 4),),
        ),
        (
            (
                "%start.1 = ((f32[8]{0}, bf16[2]{0}), (f32[16]{0}, bf16[4]{0})) all-gather-start(%a, %b), dimensions={0}",
                "%done.1 = (f32[16]{0}, bf16[4]{0}) all-gather-done(%start.1)",
            ),
            (Collective("all-gather", 1, 16 * 4 + 4 * 2),),
        ),
        (
            (
                "ar = bf16[1,8,4096]{2,1,0} all-reduce-start(a), to_apply=%add, backend_config={\"is_sync\":true}",
                "ROOT ar-done = bf16[1,8,4096]{2,1,0} all-reduce-done(ar), metadata={op_name=\"jit(f) all-reduce(x)\"}",
            ),
            (Collective("all-reduce", 1, 8 * 4096 * 2),),
        ),
        (
            (
                "%start = ((f32[8]{0}), f32[2]{0}) reduce-scatter-start(%a), dimensions={0}, to_apply=%add",
                "%done = f32[2]{0} reduce-scatter-done(%start)",
                "%cp = (f32[2]{0}, f32[2]{0}, u32[], u32[]) collective-permute-start(%done)",
                "%cp-done = f32[2]{0} collective-permute-done(%cp)",
            ),
            (Collective("reduce-scatter", 1, 8), Collective("collective-permute", 1, 8)),
        ),
        (
            ("%t = (pred[3]{0:T(256)(32,128)}, s4[3]{0}, /*index=2*/f8e4m3fn[5]{0}, token[]) all-to-all(%a, %b, %c, %d)",),
            (Collective("all-to-all", 1, 3 + 2 + 5),),
        ),
        (
            (
                "%all-reduce.2 = f32[] all-reduce(%a), to_apply=%add",
                "%fusion = f32[1,1,576]{2,1,0} fusion(%all-reduce.2), kind=kLoop, calls=%fused",
                "%tag = f32[4] custom-call(%a), metadata={op_name=\"x = f32[9] all-gather(y)\"}",
            ),
            (Collective("all-reduce", 1, 4),),
        ),
    ],
    ids=["all-gather", "combined", "all-reduce", "two kinds", "odd types", "mentions"],
)  # fmt: skip
def test_lines_as_gpus_print_them(lines, collectives):
    assert collectives_in(program(*lines)) == collectives


def test_what_the_program_calls_on_its_way_runs_once_a_call():
    """Generic asynchronous operations, and calls, stand in computations of their own."""
    inner = "%wrapped (p: f32[8]) -> f32[2] {\n  ROOT %rs = f32[2]{0} reduce-scatter(%p), to_apply=%add\n}\n"
    start = "%start = ((f32[8]), f32[2], u32[]) async-start(%a), calls=%wrapped"
    assert collectives_in(inner + program(start)) == (Collective("reduce-scatter", 1, 8),)
