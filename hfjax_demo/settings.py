"""Every knob an operator can turn, once, from environment variables and flags.

A knob named `max_cache_len` is read from `HFJAX_DEMO_MAX_CACHE_LEN`. Knows nothing of requests: those are what
visitors ask for, these are what the operator allows.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from hfjax_demo.errors import InvalidRequestError

ENV_PREFIX = "HFJAX_DEMO_"
MAX_DEVICES = 1024
"""Most virtual CPU devices: each has threads of its own, and with many thousands JAX does not come up any more."""


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The user's cache folder for converted models: `$XDG_CACHE_HOME/hfjax_demo` or `~/.cache/hfjax_demo`."""
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hfjax_demo"


@dataclass(frozen=True)
class Settings:
    """The operator's choices.

    Attributes:
        devices: virtual CPU devices to create before JAX starts; None means one per core. Without effect on
            accelerators, whose devices are real. More devices than cores cost every step about 12 %.
        cache_dir: folder for models converted from GGUF.
        max_cache_len: most positions a fixed cache may have; a request that needs more is refused.
        max_waiting: requests that may wait for the engine; one more is refused.
        jit_growing_max_new_tokens: most tokens of a jit run over a growing cache, which compiles a program per token.
        memory_limit_bytes: refuse models whose weights need more; None means what the machine has free.
    """

    devices: int | None = None
    cache_dir: Path = field(default_factory=default_cache_dir)
    max_cache_len: int = 8192
    max_waiting: int = 64
    jit_growing_max_new_tokens: int = 16
    memory_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("devices", "max_cache_len", "max_waiting", "jit_growing_max_new_tokens", "memory_limit_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidRequestError(
                    f"The setting {name} must be at least 1 but is {value}. Set {ENV_PREFIX}{name.upper()} to a "
                    "positive whole number, or leave it out for the default.",
                    field=name,
                )
        if self.devices is not None and self.devices > MAX_DEVICES:
            raise InvalidRequestError(
                f"The setting devices must be at most {MAX_DEVICES} but is {self.devices}. Leave it out for one device per "
                "core.",
                field="devices",
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **overrides: object) -> "Settings":
        """Settings from `HFJAX_DEMO_*` variables; `overrides` that are not None (flags) win.

        Raises:
            InvalidRequestError: a variable or override is not a positive whole number.
        """
        values: dict[str, object] = {}
        for knob in fields(cls):
            text = environ.get(ENV_PREFIX + knob.name.upper())
            if text is None or text == "":
                continue
            if knob.name == "cache_dir":
                values[knob.name] = Path(text).expanduser()
                continue
            try:
                values[knob.name] = int(text)
            except ValueError as err:
                raise InvalidRequestError(
                    f"{ENV_PREFIX}{knob.name.upper()} must be a whole number but is {text!r}. Set it to a positive "
                    "whole number, or unset it.",
                    field=knob.name,
                ) from err
        values.update({name: value for name, value in overrides.items() if value is not None})
        return cls(**values)  # type: ignore[arg-type]
