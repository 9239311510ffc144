"""How the page says things: modes and caches in plain words, seconds, counts. Knows nothing of gradio."""

from hfjax_demo.requests import CacheKind, ExecutionMode, GenerationRequest

MODE_CHOICES = [("eager: op by op", "eager"), ("jit: one program", "jit")]
CACHE_WORDS = {CacheKind.NONE: "no cache", CacheKind.DYNAMIC: "growing cache", CacheKind.STATIC: "fixed cache"}
CACHE_CHOICES = {
    ExecutionMode.EAGER: [("none", "none"), ("grows", "dynamic"), ("fixed", "static")],
    ExecutionMode.JIT: [("grows", "dynamic"), ("fixed", "static")],
}
"""The caches each mode can run with: jit cannot do without one."""

CACHE_EXPLANATIONS = {
    ("eager", "none"): "Nothing is kept: every step reads the whole text again, and its shape is new every time.",
    ("eager", "dynamic"): "The cache grows by one position a step. New shapes every step, so operators are compiled again.",
    (
        "eager",
        "static",
    ): "The cache has its full size from the start: the same shapes every step, still one operator at a time.",
    ("jit", "dynamic"): "A new program for every length, seconds each: the slowest of all. At most a few tokens.",
    ("jit", "static"): "One whole step is compiled once and used again for every token. The fast one.",
}


def setting_words(request: GenerationRequest) -> str:
    """Mode and cache in words: "jit, fixed cache"."""
    return f"{request.mode}, {CACHE_WORDS[request.cache_kind]}"


def seconds(value: float) -> str:
    """Seconds with their unit, three figures: "1.23 s", "66.1 ms"."""
    if value == 0:
        return "0 s"
    return f"{value * 1000:.3g} ms" if value < 0.9995 else f"{value:.3g} s" if value < 999.5 else f"{value:.0f} s"


def plural(count: int, noun: str) -> str:
    """A count and its noun: "1 program", "2 programs"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
