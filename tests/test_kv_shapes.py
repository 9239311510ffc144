"""Cache arithmetic, against the formula and the article's own figure."""

from hfjax_demo.kv_shapes import LayerGeometry, plan_kv_cache


def layers(count, kv_heads, key_dim, value_dim=None):
    return tuple(LayerGeometry(index, "full_attention", kv_heads, key_dim, value_dim or key_dim) for index in range(count))


def test_llama_2_7b_needs_half_a_megabyte_a_token_in_half_precision():
    """2 x 32 layers x 32 heads x 128 x 2 bytes = 524,288: the figure quoted for Llama 2 7B everywhere."""
    plan = plan_kv_cache(layers(32, 32, 128), batch_size=1, context_len=4096, dtype="bfloat16")
    assert plan.bytes_per_token == 524_288
    assert plan.total_bytes == 524_288 * 4096
    assert plan.layers[0].key_shape == (1, 32, 4096, 128)


def test_bytes_grow_with_batch_but_bytes_per_token_do_not():
    one = plan_kv_cache(layers(2, 3, 64), 1, 256, "float32")
    four = plan_kv_cache(layers(2, 3, 64), 4, 256, "float32")
    assert four.total_bytes == 4 * one.total_bytes
    assert four.bytes_per_token == one.bytes_per_token == 2 * 2 * 3 * 64 * 4


def test_key_and_value_head_sizes_may_differ():
    (layer,) = plan_kv_cache(layers(1, 8, 192, 128), 1, 10, "float32").layers
    assert layer.key_shape == (1, 8, 10, 192)
    assert layer.value_shape == (1, 8, 10, 128)
    assert layer.bytes == 8 * 10 * (192 + 128) * 4


def test_heads_that_divide_are_split_and_others_replicated():
    split = plan_kv_cache(layers(2, 8, 64), 1, 16, "float32", tensor_parallel=4)
    whole = plan_kv_cache(layers(2, 3, 64), 1, 16, "float32", tensor_parallel=4)
    assert split.bytes_per_device * 4 == split.total_bytes
    assert whole.bytes_per_device == whole.total_bytes


def test_a_shared_layer_holds_nothing():
    plan = plan_kv_cache((*layers(1, 2, 8), LayerGeometry(1, "shared", 0, 0, 0)), 1, 4, "float32")
    assert plan.layers[1].bytes == 0
    assert plan.total_bytes == plan.layers[0].bytes
