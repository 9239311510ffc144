"""What fits and how fast at most: arithmetic that is checked by hand, and that the searches agree with counting."""

import pytest

from hfjax_demo.accelerators import ACCELERATORS, GB, Accelerator
from hfjax_demo.cache_formula import ConfigField, cache_formula
from hfjax_demo.cache_plan import CacheForm, cache_bytes, layer_groups, positions_held
from hfjax_demo.kv_shapes import LayerGeometry, plan_kv_cache
from hfjax_demo.planning import MOST_POSITIONS, DeviceNeeds, context_curve, fit_accelerator, fit_accelerators, usable_bytes

LLAMA_2_7B = tuple(LayerGeometry(index, "full_attention", 32, 128, 128, 32) for index in range(32))
WINDOW = 100


def layer(index=0, kv_heads=2, key_dim=8, value_dim=8, heads=4, window=None, expanded=None):
    kind = "sliding_attention" if window else "full_attention"
    return LayerGeometry(index, kind, kv_heads, key_dim, value_dim, heads, window, expanded)


MIXED = (layer(0, window=WINDOW), layer(1), LayerGeometry(2, "shared", 0, 0, 0), layer(3, kv_heads=1, key_dim=16))


def needs(layers, weights_bytes=0, read=0, parts=1, dtype="bfloat16"):
    return DeviceNeeds(weights_bytes, read, layer_groups(layers), dtype, parts)


def total(layers, form, length, batch=1):
    return cache_bytes(layer_groups(layers), form, batch, length, "bfloat16").total_bytes


def test_llama_2_7b_on_a_24_gb_device():
    """13.48 GB of weights leave 8.12 of the usable 21.6 GB: 15,493 tokens of 524,288 bytes, or 3 caches of 4096."""
    l4 = next(accelerator for accelerator in ACCELERATORS if accelerator.name == "NVIDIA L4")
    weights_bytes = 2 * 6_738_415_616
    fit = fit_accelerator(needs(LLAMA_2_7B, weights_bytes, weights_bytes), l4, batch_size=1, context_len=4096)
    assert fit.usable_bytes == 21_600_000_000
    assert fit.fixed.cache_bytes == 2**19 * 4096
    assert fit.fixed.free_bytes == 21_600_000_000 - weights_bytes - 2**31
    assert fit.fixed.fits
    assert fit.fixed.longest_context_len == (21_600_000_000 - weights_bytes) // 2**19 == 15_493
    assert fit.fixed.largest_batch_size == 3
    assert fit.max_tokens_per_s == pytest.approx(300e9 / (weights_bytes + 2**31))


def test_what_does_not_fit_says_by_how_much_and_promises_no_speed():
    device = Accelerator("small", 10 * GB, 100 * GB, "")
    fit = fit_accelerator(needs(LLAMA_2_7B, 9 * GB + 1, 1), device, 1, 1)
    assert (fit.fixed.fits, fit.fixed.free_bytes) == (False, -(2**19) - 1)
    assert (fit.fixed.longest_context_len, fit.fixed.largest_batch_size) == (0, 0)
    assert fit.max_tokens_per_s is None


def test_what_fits_exactly_fits():
    device = Accelerator("device", 10 * GB, 100 * GB, "")
    exact = needs(LLAMA_2_7B, usable_bytes(10 * GB) - 3 * 2**19)
    assert fit_accelerator(exact, device, 1, 3).fixed.free_bytes == 0
    assert fit_accelerator(exact, device, 1, 3).fixed.longest_context_len == 3
    assert not fit_accelerator(exact, device, 1, 4).fixed.fits


@pytest.mark.parametrize("form", ["fixed", "windowed"])
@pytest.mark.parametrize("room", [0, 1, 63, 64, 500, 12_345, 40_000])
def test_the_longest_context_and_the_largest_batch_are_those_that_counting_finds(form, room):
    device = Accelerator("device", round(room / 0.9), None, "")
    wanted = needs(MIXED)
    room = usable_bytes(device.memory_bytes)
    fit = getattr(fit_accelerator(wanted, device, batch_size=2, context_len=70), form)
    lengths = [length for length in range(1, 2000) if total(MIXED, CacheForm(form), length, 2) <= room]
    batches = [size for size in range(1, 2000) if total(MIXED, CacheForm(form), 70, size) <= room]
    assert fit.longest_context_len == max(lengths, default=0)
    assert fit.largest_batch_size == max(batches, default=0)


def test_bytes_never_shrink_with_length_or_batch_whatever_the_form():
    for form in CacheForm:
        by_length = [total(MIXED, form, length) for length in range(1, 3 * WINDOW)]
        assert by_length == sorted(by_length)
        assert total(MIXED, form, 50, batch=7) == 7 * total(MIXED, form, 50)


def test_windows_alone_fit_at_any_length():
    device = Accelerator("device", GB, 100 * GB, "")
    fit = fit_accelerator(needs((layer(window=WINDOW),)), device, 1, 10**6)
    assert fit.windowed.longest_context_len == MOST_POSITIONS
    assert fit.windowed.cache_bytes == fit_accelerator(needs((layer(window=WINDOW),)), device, 1, WINDOW).fixed.cache_bytes


def test_without_windows_both_forms_agree():
    device = Accelerator("device", GB, 100 * GB, "")
    fit = fit_accelerator(needs(LLAMA_2_7B), device, 1, 128)
    assert fit.fixed.cache_bytes == fit.windowed.cache_bytes
    assert fit.fixed.longest_context_len == fit.windowed.longest_context_len


def test_an_unknown_bandwidth_promises_no_speed_and_a_batch_shares_the_weights():
    wanted = needs((layer(),), weights_bytes=1000, read=1000)
    assert fit_accelerator(wanted, Accelerator("?", GB, None, ""), 1, 1).max_tokens_per_s is None
    fit = fit_accelerator(wanted, Accelerator("!", GB, 10**6, ""), batch_size=10, context_len=1)
    cache = 10 * 2 * 2 * 8 * 2
    assert fit.max_tokens_per_s_per_sequence == pytest.approx(10**6 / (1000 + cache))
    assert fit.max_tokens_per_s == pytest.approx(10 * fit.max_tokens_per_s_per_sequence)


def test_splitting_over_devices_divides_what_divides():
    latent = layer(kv_heads=1, key_dim=16, value_dim=8, expanded=(24, 16))
    assert needs((layer(),), parts=2).cache_bytes(CacheForm.FIXED, 1, 10) == total((layer(),), CacheForm.FIXED, 10) // 2
    assert needs((latent,), parts=2).cache_bytes(CacheForm.FIXED, 1, 10) == total((latent,), CacheForm.FIXED, 10)
    split = needs((latent,), parts=2).cache_bytes(CacheForm.FULL_HEADS, 1, 10)
    assert 2 * split == total((latent,), CacheForm.FULL_HEADS, 10) == 4 * (24 + 16) * 10 * 2


def test_a_curve_is_log_spaced_ends_at_its_ends_and_bends_at_the_window():
    points = context_curve(needs(MIXED), 3, 1000)
    lengths = [point.context_len for point in points]
    assert lengths == [1, 2, 4, 8, 16, 32, 64, WINDOW, 128, 256, 512, 1000]
    for point in points:
        assert point.fixed_bytes == total(MIXED, CacheForm.FIXED, point.context_len, 3)
        assert point.windowed_bytes == total(MIXED, CacheForm.WINDOWED, point.context_len, 3)
        assert (point.windowed_bytes < point.fixed_bytes) == (point.context_len > WINDOW)
    assert [point.context_len for point in context_curve(needs(MIXED), 1, 1)] == [1]


@pytest.mark.parametrize(
    ("form", "held"),
    [(CacheForm.FIXED, 300), (CacheForm.GROWING, 99), (CacheForm.WINDOWED, 100), (CacheForm.FULL_HEADS, 300)],
)
def test_each_form_holds_its_part_of_a_window(form, held):
    assert positions_held(layer(window=WINDOW), form, 300) == held
    assert positions_held(layer(window=WINDOW), form, 50) == 50


@pytest.mark.parametrize(
    "layers", [MIXED, LLAMA_2_7B, (layer(key_dim=24, value_dim=16),), (layer(1, 1, 16, 16, 4, None, (9, 9)),)]
)
def test_every_formulas_product_is_its_bytes(layers):
    """A latent as large as its rotary part was once counted twice: "2 x" beside "(C + R)"."""
    groups = layer_groups(layers)
    for form in CacheForm:
        formula = cache_formula(groups, form, 3, 150, "float32")
        assert formula.total_bytes == cache_bytes(groups, form, 3, 150, "float32").total_bytes
        for term in formula.terms:
            product = 1
            for number in term.numbers.split(" x "):
                product *= int(number)
            assert product == term.bytes
            assert term.symbols.count(" x ") == term.numbers.count(" x ") == len(term.factors) - 1
            assert all(factor.meaning.endswith(".") and factor.source for factor in term.factors)
    assert (
        cache_formula(groups, CacheForm.FIXED, 3, 150, "float32").total_bytes
        == plan_kv_cache(layers, 3, 150, "float32").total_bytes
    )


def test_a_factor_names_the_field_that_has_its_value_and_no_other():
    fields = (ConfigField("K", "num_key_value_heads", 8), ConfigField("D", "head_dim", 8), ConfigField("N", "n_layer", 1))
    (term,) = cache_formula(layer_groups((layer(),)), CacheForm.FIXED, 1, 1, "float32", fields).terms
    sources = {factor.symbol: factor.source for factor in term.factors}
    assert sources["K"] == "read off the model"
    assert (sources["D"], sources["N"]) == ("config: head_dim", "config: n_layer")


def test_heads_are_called_what_they_are():
    def words(geometry):
        (term,) = cache_formula(layer_groups((geometry,)), CacheForm.FIXED, 1, 1, "float32").terms
        return next(factor.meaning for factor in term.factors if factor.symbol == "K")

    assert "multi-head attention" in words(layer(kv_heads=4))
    assert "grouped-query attention" in words(layer(kv_heads=2))
    assert "multi-query attention" in words(layer(kv_heads=1))
    assert "latent attention" in words(layer(kv_heads=1, expanded=(9, 9)))


def test_accelerators_are_facts_with_a_source():
    names = [accelerator.name for accelerator in ACCELERATORS]
    assert len(set(names)) == len(names)
    for accelerator in ACCELERATORS:
        assert accelerator.source.startswith("https://")
        assert GB <= accelerator.memory_bytes <= 1000 * GB
        assert accelerator.bandwidth_bytes_per_s is None or 100 * GB < accelerator.bandwidth_bytes_per_s < 20_000 * GB
    order = [(accelerator.memory_bytes, accelerator.bandwidth_bytes_per_s or 0) for accelerator in ACCELERATORS]
    assert order == sorted(order)
    assert [fit.name for fit in fit_accelerators(needs(MIXED), 1, 1)] == names
