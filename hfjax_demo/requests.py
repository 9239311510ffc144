"""What can be asked of the engine: one frozen, self-checking dataclass.

Checks every rule that needs no model. Rules that need one (context length, a chat template) are checked by the
inference package. Knows nothing of how a request is served.
"""

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, TypeVar

from hfjax_demo.catalog import DEFAULT_MODEL
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.kv_shapes import DTYPE_BYTES

MAX_SEED = 2**32 - 1
MAX_WHOLE = 2**31 - 1
"""Counts are int32 where they are computed with."""
MAX_SHOWN_CHARS = 80
Choice = TypeVar("Choice", bound=StrEnum)


class ExecutionMode(StrEnum):
    """How a step runs: operator by operator, or as one compiled program."""

    EAGER = "eager"
    JIT = "jit"


class CacheKind(StrEnum):
    """What is kept between steps: nothing, a cache that grows by one each step, or one of fixed size."""

    NONE = "none"
    DYNAMIC = "dynamic"
    STATIC = "static"


DEFAULT_CACHE = {ExecutionMode.EAGER: CacheKind.DYNAMIC, ExecutionMode.JIT: CacheKind.STATIC}
"""The cache each mode uses where the request names none: the article's two main settings."""


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and how to continue it.

    Attributes:
        prompt: the text to continue, or the user's message if `chat`.
        model: catalog name, Hub id, or (command line only) a local folder or GGUF file.
        mode: eager or jit.
        cache: none, dynamic or static; None means the mode's default (eager: dynamic, jit: static).
        chat: wrap the prompt in the model's chat template.
        max_new_tokens: tokens to generate at most, the first one included.
        ignore_eos: do not stop at the model's end-of-sequence ids.
        temperature: 0 is greedy; else logits are divided by it before sampling.
        top_k: sample among the k likeliest tokens; 0 is off.
        top_p: sample among the likeliest tokens whose probabilities reach p, in (0, 1]; 1 is off.
        seed: of the `jax.random` key, 0 to 2**32 - 1.
        dtype: of weights and cache: float32, bfloat16 or float16.
        tensor_parallel: devices the weights and cache are split over.
        max_cache_len: positions of the fixed cache; None lets the engine pick the smallest bucket that fits.

    Raises:
        InvalidRequestError: on construction, where a field breaks its rule.
    """

    prompt: str
    model: str = DEFAULT_MODEL
    mode: ExecutionMode = ExecutionMode.JIT
    cache: CacheKind | None = None
    chat: bool = False
    max_new_tokens: int = 64
    ignore_eos: bool = False
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    tensor_parallel: int = 1
    max_cache_len: int | None = None

    def __post_init__(self) -> None:
        _set(self, "mode", _choice("mode", self.mode, ExecutionMode))
        _set(self, "cache", _choice("cache", DEFAULT_CACHE[self.mode] if self.cache is None else self.cache, CacheKind))
        _text("prompt", self.prompt)
        _text("model", self.model)
        if not self.prompt.strip():
            raise InvalidRequestError(
                "The prompt must have at least one character that is not white space, but has none. Type a prompt.",
                field="prompt",
            )
        if not self.model.strip():
            raise InvalidRequestError(
                "A model must be named, but the name is empty. Pick one of the list of models.", "model"
            )
        if self.mode is ExecutionMode.JIT and self.cache is CacheKind.NONE:
            raise InvalidRequestError(
                "jit needs a cache to compile one step: without one the input's shape changes at every token. Use the fixed "
                "cache (--cache static), the growing one to see it recompile (--cache dynamic), or eager (--mode eager).",
                field="cache",
            )
        _whole("max_new_tokens", self.max_new_tokens, 1, "Ask for a number of tokens such as 64.")
        _whole("top_k", self.top_k, 0, "Use 0 to turn top-k off.", most=MAX_WHOLE)
        _whole("seed", self.seed, 0, f"Use a seed from 0 to {MAX_SEED}.", most=MAX_SEED)
        _whole("tensor_parallel", self.tensor_parallel, 1, "Use 1 for a single device.")
        if self.max_cache_len is not None:
            _whole("max_cache_len", self.max_cache_len, 1, "Leave it out to let the engine choose.")
        _flag("chat", self.chat)
        _flag("ignore_eos", self.ignore_eos)
        _set(self, "temperature", _real("temperature", self.temperature))
        _set(self, "top_p", _real("top_p", self.top_p))
        if self.temperature < 0:
            raise InvalidRequestError(
                f"temperature must be 0 (greedy) or more but is {self.temperature:g}. Use 0 for greedy, or about 0.7 to "
                "sample.",
                field="temperature",
            )
        if not 0 < self.top_p <= 1:
            raise InvalidRequestError(
                f"top_p must be above 0 and at most 1 but is {self.top_p:g}. Use 1 to turn it off.", field="top_p"
            )
        if not isinstance(self.dtype, str) or self.dtype not in DTYPE_BYTES:
            raise InvalidRequestError(
                f"dtype must be one of {', '.join(DTYPE_BYTES)} but is {shown_value(self.dtype)}. Use float32 for exact "
                "tokens.",
                field="dtype",
            )

    @property
    def cache_kind(self) -> CacheKind:
        """The cache this request runs with, its mode's default filled in."""
        assert self.cache is not None  # __post_init__ filled it
        return self.cache

    def to_dict(self) -> dict[str, object]:
        """The fields as JSON-ready values; `GenerationRequest(**d)` gives the request back."""
        return asdict(self)


def shown_value(value: object) -> str:
    """A value that came from anyone as a message may repeat it: on one line, short, never itself an error."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of about {round(value.bit_length() * math.log10(2))} digits"
    if not isinstance(value, str | int | float | None):
        return f"a {type(value).__name__}"
    text = repr(value[: MAX_SHOWN_CHARS + 1] if isinstance(value, str) else value)
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 1] + "…"


def _set(request: GenerationRequest, name: str, value: object) -> None:
    object.__setattr__(request, name, value)


def _choice(name: str, value: Any, kind: type[Choice]) -> Choice:
    try:
        return kind(value)
    except ValueError as err:
        options = ", ".join(kind)
        raise InvalidRequestError(
            f"{name} must be one of {options} but is {shown_value(value)}. Pick one of them.", field=name
        ) from err


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidRequestError(f"The {name} must be text but is {shown_value(value)}. Send it in quotes.", field=name)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as err:
        raise InvalidRequestError(
            f"The {name} must be valid Unicode text but has a lone surrogate at character {err.start}. Send it as UTF-8.",
            field=name,
        ) from err


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidRequestError(
            f"{name} must be true or false but is {shown_value(value)}. Leave it out for false.", field=name
        )


def _whole(name: str, value: object, least: int, way_out: str, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequestError(f"{name} must be a whole number but is {shown_value(value)}. {way_out}", field=name)
    if not least <= value <= (most or MAX_WHOLE):
        bounds = f"from {least} to {most}" if most else f"at least {least}" if value < least else f"at most {MAX_WHOLE}"
        raise InvalidRequestError(f"{name} must be {bounds} but is {shown_value(value)}. {way_out}", field=name)


def _real(name: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidRequestError(
            f"{name} must be a finite number but is {shown_value(value)}. Leave it out for the default.", field=name
        )
    return number
