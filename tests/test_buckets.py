"""Lengths are rounded up to shared buckets, and what cannot fit is refused with the numbers."""

import pytest

from hfjax_demo.buckets import cache_capacity, check_context, prefill_bucket
from hfjax_demo.errors import CapacityError


@pytest.mark.parametrize(("prompt_len", "bucket"), [(1, 16), (16, 16), (17, 32), (32, 32), (33, 64), (200, 256)])
def test_a_prompt_is_padded_to_the_next_power_of_two(prompt_len, bucket):
    assert prefill_bucket(prompt_len, capacity=256) == bucket


def test_a_prefill_bucket_never_exceeds_the_cache():
    assert prefill_bucket(20, capacity=24) == 24


@pytest.mark.parametrize(("prompt_len", "new", "capacity"), [(8, 64, 256), (200, 56, 256), (200, 57, 512), (900, 200, 2048)])
def test_capacity_is_the_smallest_bucket_that_fits(prompt_len, new, capacity):
    assert cache_capacity(prompt_len, new, None, 8192, None) == capacity


def test_capacity_stops_at_the_model_context():
    assert cache_capacity(200, 100, max_context_len=300, max_cache_len=8192, requested_len=None) == 300


def test_a_requested_capacity_is_taken_as_it_is():
    assert cache_capacity(8, 8, None, 8192, requested_len=40) == 40


def test_the_error_states_rule_numbers_and_way_out():
    with pytest.raises(CapacityError) as caught:
        cache_capacity(424, 188, None, 8192, requested_len=512)
    assert str(caught.value) == (
        "Prompt and new tokens need 612 positions (424 + 188) but max_cache_len is 512. "
        "Shorten the prompt or ask for at most 88 new tokens."
    )
    assert caught.value.field == "max_new_tokens"


def test_a_prompt_that_leaves_no_room_is_the_prompts_fault():
    with pytest.raises(CapacityError, match="Shorten the prompt to at most 99 tokens") as caught:
        check_context(100, 1, 100)
    assert caught.value.field == "prompt"


def test_a_requested_capacity_beyond_the_operators_limit_is_refused():
    with pytest.raises(CapacityError, match="at most 512 here but is 513"):
        cache_capacity(8, 8, None, 512, requested_len=513)
