"""Which lengths programs are compiled for, so that nearby requests share one program. Pure arithmetic.

A prompt is right-padded to a prefill bucket and a fixed cache has a capacity bucket; both double, so that a model needs
only a handful of programs whatever people type. Knows nothing of models or programs.
"""

from hfjax_demo.errors import CapacityError

SMALLEST_PREFILL = 16
SMALLEST_CAPACITY = 256


def prefill_bucket(prompt_len: int, capacity: int) -> int:
    """Padded prompt length: the smallest of 16, 32, 64 ... that holds the prompt, at most the cache's capacity."""
    return min(_doubling(SMALLEST_PREFILL, prompt_len), capacity)


def check_context(prompt_len: int, max_new_tokens: int, max_context_len: int | None) -> None:
    """Refuses what the model's own context cannot hold.

    Raises:
        CapacityError: prompt and new tokens together exceed `max_context_len`.
    """
    if max_context_len is not None:
        _check_fits(prompt_len, max_new_tokens, max_context_len, "the model's context has")


def cache_capacity(
    prompt_len: int, max_new_tokens: int, max_context_len: int | None, max_cache_len: int, requested_len: int | None
) -> int:
    """Positions of the fixed cache for one request.

    Args:
        prompt_len: tokens of the prompt.
        max_new_tokens: tokens to generate at most.
        max_context_len: the model's limit, None for none.
        max_cache_len: the operator's limit.
        requested_len: the request's own wish, None to pick the smallest of 256, 512, 1024 ... that fits.

    Returns:
        The capacity, at least `prompt_len + max_new_tokens`.

    Raises:
        CapacityError: the tokens do not fit, or the requested length is beyond the operator's limit.
    """
    check_context(prompt_len, max_new_tokens, max_context_len)
    if requested_len is not None and requested_len > max_cache_len:
        raise CapacityError(
            f"max_cache_len may be at most {max_cache_len} here but is {requested_len}. Ask for a smaller cache, or raise "
            "HFJAX_DEMO_MAX_CACHE_LEN.",
            field="max_cache_len",
        )
    limit = requested_len or max_cache_len
    _check_fits(prompt_len, max_new_tokens, limit, "max_cache_len is")
    if requested_len is not None:
        return requested_len
    capacity = min(_doubling(SMALLEST_CAPACITY, prompt_len + max_new_tokens), max_cache_len)
    return capacity if max_context_len is None else min(capacity, max_context_len)


def _check_fits(prompt_len: int, max_new_tokens: int, limit: int, limit_phrase: str) -> None:
    needed = prompt_len + max_new_tokens
    if needed <= limit:
        return
    room = limit - prompt_len
    if room >= 1:
        way_out = f"Shorten the prompt or ask for at most {room} new token{'s' if room > 1 else ''}."
    else:
        way_out = f"Shorten the prompt to at most {max(limit - 1, 0)} tokens."
    raise CapacityError(
        f"Prompt and new tokens need {needed} positions ({prompt_len} + {max_new_tokens}) but {limit_phrase} {limit}. "
        f"{way_out}",
        field="prompt" if room < 1 else "max_new_tokens",
    )


def _doubling(smallest: int, needed: int) -> int:
    bucket = smallest
    while bucket < needed:
        bucket *= 2
    return bucket
