"""Every knob an operator can turn, once, from environment variables and flags.

A knob named `max_cache_len` is read from `HFJAX_DEMO_MAX_CACHE_LEN`. Knows nothing of requests: those are what
visitors ask for, these are what the operator allows.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from hfjax_demo.errors import InvalidRequestError

ENV_PREFIX = "HFJAX_DEMO_"
MAX_DEVICES = 1024
"""Most virtual CPU devices: each has threads of its own, and with many thousands JAX does not come up any more."""
ANY_MODEL = "any"
CATALOG_ONLY = "catalog"


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
        models: what visitors may run: "any", "catalog", or catalog names and Hub ids with commas between them.
        max_prompt_chars: most characters of a visitor's prompt.
        max_new_tokens: most tokens one visitor's request may ask for.
        time_limit_s: seconds one visitor's request may run once it has begun.
        coordinator: "HOST:PORT" at which process 0 of several awaits the others; None where there is one process.
        num_processes: processes that form one mesh.
        process_id: which of them this is, from 0; process 0 serves, the others follow it.
    """

    devices: int | None = None
    cache_dir: Path = field(default_factory=default_cache_dir)
    max_cache_len: int = 8192
    max_waiting: int = 64
    jit_growing_max_new_tokens: int = 16
    memory_limit_bytes: int | None = None
    models: str = ANY_MODEL
    max_prompt_chars: int = 32768
    max_new_tokens: int = 1024
    time_limit_s: float = 600
    coordinator: str | None = None
    num_processes: int = 1
    process_id: int = 0

    def __post_init__(self) -> None:
        self._check_processes()
        for knob in fields(self):
            value = getattr(self, knob.name)
            if knob.name != "process_id" and knob.type in (int, int | None) and value is not None and value < 1:
                raise InvalidRequestError(
                    f"The setting {knob.name} must be at least 1 but is {value}. Set {ENV_PREFIX}{knob.name.upper()} to a "
                    "positive whole number, or leave it out for the default.",
                    field=knob.name,
                )
            if knob.type is float and not 0 < value < math.inf:  # NaN is neither
                raise InvalidRequestError(
                    f"The setting {knob.name} must be above 0 and finite but is {value:g}. Set "
                    f"{ENV_PREFIX}{knob.name.upper()} to a positive number, or leave it out for the default.",
                    field=knob.name,
                )
        if self.devices is not None and self.devices > MAX_DEVICES:
            raise InvalidRequestError(
                f"The setting devices must be at most {MAX_DEVICES} but is {self.devices}. Leave it out for one device per "
                "core.",
                field="devices",
            )
        self._check_models()

    def _check_models(self) -> None:
        names = _split(self.models)
        if not names or (len(names) > 1 and {ANY_MODEL, CATALOG_ONLY} & {name.casefold() for name in names}):
            raise InvalidRequestError(
                f"The setting models must be {ANY_MODEL!r}, {CATALOG_ONLY!r} or at least one model's name, but is "
                f"{self.models!r}. Set {ENV_PREFIX}MODELS to one of the two words alone, or to catalog names and Hub ids "
                "with commas between them.",
                field="models",
            )

    def _check_processes(self) -> None:
        if not 0 <= self.process_id < max(self.num_processes, 1):
            raise InvalidRequestError(
                f"The setting process_id must be from 0 to num_processes - 1 but is {self.process_id} of "
                f"{self.num_processes}. Give each process an id of its own with --process-id.",
                field="process_id",
            )
        if (self.num_processes > 1) != (self.coordinator is not None):
            raise InvalidRequestError(
                f"Several processes need a coordinator, and one process needs none, but num_processes is "
                f"{self.num_processes} and coordinator is {self.coordinator!r}. Give each process both --coordinator "
                "HOST:PORT and --num-processes, or neither.",
                field="coordinator",
            )
        if self.coordinator is not None:
            host, port = self.coordinator_address
            if not host or not 0 < port < 2**16:
                raise InvalidRequestError(
                    f"The setting coordinator must be HOST:PORT, with a port from 1 to {2**16 - 1}, but is "
                    f"{self.coordinator!r}. Use the address of the machine that process 0 runs on, such as 10.0.0.1:8476.",
                    field="coordinator",
                )

    @property
    def coordinator_address(self) -> tuple[str, int]:
        """Host and port of the coordinator; port 0 where there is none that can be read."""
        host, _, port = (self.coordinator or "").rpartition(":")
        return host.strip("[]"), int(port) if port.isascii() and port.isdigit() else 0

    @property
    def listed_models(self) -> tuple[str, ...]:
        """The names in `models`, as the operator spelled them; none where it is "any" or "catalog"."""
        names = _split(self.models)
        return () if names[0].casefold() in (ANY_MODEL, CATALOG_ONLY) else names

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **overrides: object) -> "Settings":
        """Settings from `HFJAX_DEMO_*` variables; `overrides` that are not None (flags) win.

        Raises:
            InvalidRequestError: a variable is not of its knob's type, or a variable or override breaks its knob's rule.
        """
        values: dict[str, object] = {}
        for knob in fields(cls):
            if text := environ.get(ENV_PREFIX + knob.name.upper()):
                values[knob.name] = _parse(knob.name, knob.type, text)
        values.update({name: value for name, value in overrides.items() if value is not None})
        return cls(**values)  # type: ignore[arg-type]


def _parse(name: str, kind: object, text: str) -> object:
    """A variable's text as the value of the knob `name`, whose type hint is `kind`."""
    if kind in (str, str | None):
        return text
    if kind is Path:
        return Path(text).expanduser()
    number, described = (float, "number") if kind is float else (int, "whole number")
    try:
        return number(text)
    except ValueError as err:
        raise InvalidRequestError(
            f"{ENV_PREFIX}{name.upper()} must be a {described} but is {text!r}. Set it to a positive {described}, or "
            "unset it.",
            field=name,
        ) from err


def _split(models: str) -> tuple[str, ...]:
    """The names between the commas of `models`, white space and empty ones left out."""
    return tuple(name.strip() for name in models.split(",") if name.strip())
