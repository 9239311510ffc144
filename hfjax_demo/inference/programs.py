"""The compiled programs of one loaded model: key -> executable, traces counted, and the reason for each compilation.

Programs are compiled ahead of their first call (`trace`, `lower`, `compile`) and then called as executables, which refuse
arguments of other shapes instead of silently retracing. Knows nothing of requests, text or the engine.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hfjax_demo.errors import UnsupportedModelError
from hfjax_demo.events import CompilingEvent
from hfjax_demo.inference.decoding import CausalLM, Weights, decode_step, prefill
from hfjax_demo.inference.hlo_collectives import collectives_in
from hfjax_demo.inference.kv_cache import FixedCache, GrowingCache, KVCache
from hfjax_demo.inference.sampling import SamplingParams
from hfjax_demo.mesh_report import ProgramCollectives

GROWING_PROGRAMS_KEPT = 32
"""Programs over a growing cache that stay in memory: two runs' worth."""

OnCompile = Callable[[CompilingEvent], None]


@dataclass(frozen=True)
class ProgramKey:
    """Everything that a program's shapes follow from, for one model on one mesh.

    Attributes:
        phase: "prefill" or "decode_step".
        input_len: S, tokens read at once.
        is_fixed: whether the cache is fixed.
        cache_len: capacity of a fixed cache; positions seen by a growing one.
    """

    phase: str
    input_len: int
    is_fixed: bool
    cache_len: int

    @property
    def label(self) -> str:
        """Unique, for people, like "decode_step 1 token, kvcache 256 fixed"."""
        kind = "fixed" if self.is_fixed else "growing"
        tokens = "1 token" if self.input_len == 1 else f"{self.input_len} tokens"
        return f"{self.phase} {tokens}, kvcache {self.cache_len} {kind}"


@dataclass
class Programs:
    """Compiles what is missing, calls what is there. Owned by the engine's thread.

    Attributes:
        model: the code the programs are made from.
        mesh: where inputs and outputs lie.
        kv_shardings: per layer, None where a layer has no keys and values; outputs are fixed to it, so that
            no other spelling of the same layout makes a program retrace.
        num_traces: by program label, how often its Python was traced.
    """

    model: CausalLM
    mesh: jax.sharding.Mesh
    kv_shardings: tuple[jax.sharding.Sharding | None, ...]
    num_traces: Counter[str] = field(default_factory=Counter)
    _executables: dict[ProgramKey, Any] = field(default_factory=dict)
    _collectives: dict[ProgramKey, ProgramCollectives] = field(default_factory=dict)

    def prefill(
        self,
        weights: Weights,
        cache: KVCache,
        input_ids: np.ndarray,
        prompt_len: np.int32,
        sampling: SamplingParams,
        on_compile: OnCompile,
    ) -> tuple[jax.Array, KVCache]:
        """`decoding.prefill` as one program; the cache is donated."""
        key = key_of("prefill", input_ids.shape[1], cache)
        return self._call(key, prefill, (weights, cache, input_ids, prompt_len, sampling), on_compile)

    def decode_step(
        self,
        weights: Weights,
        cache: KVCache,
        position: np.int32,
        token_ids: jax.Array,
        sampling: SamplingParams,
        on_compile: OnCompile,
    ) -> tuple[jax.Array, KVCache]:
        """`decoding.decode_step` as one program; a fixed cache is donated."""
        key = key_of("decode_step", 1, cache)
        return self._call(key, decode_step, (weights, cache, position, token_ids, sampling), on_compile)

    def _call(self, key: ProgramKey, function: Callable[..., Any], arguments: tuple[Any, ...], on_compile: OnCompile) -> Any:
        executable = self._executables.get(key)
        if executable is None:
            executable = self._compile(key, function, arguments, on_compile)
            self._keep(key, executable)
        return executable(*arguments)

    def _keep(self, key: ProgramKey, executable: Any) -> None:
        """Keeps an executable for next time; of those for a growing cache, one per length, only the latest."""
        self._executables[key] = executable
        growing = [kept for kept in self._executables if not kept.is_fixed]
        if len(growing) > GROWING_PROGRAMS_KEPT:
            del self._executables[growing[0]]
            self._collectives.pop(growing[0], None)

    def collectives(self, keys: Collection[ProgramKey]) -> tuple[ProgramCollectives, ...]:
        """What the programs of `keys` communicate, in that order; a program that gave no text of itself is left out.

        Read once a program, when first asked for: the text of a large one takes a while, which is no step's time. On one
        device there is nothing to read, so nothing is.
        """
        if self.mesh.size == 1:
            return ()
        for key in keys:
            if key in self._executables and key not in self._collectives and (hlo := self._executables[key].as_text()):
                self._collectives[key] = ProgramCollectives(key.label, collectives_in(hlo))
        return tuple(self._collectives[key] for key in keys if key in self._collectives)

    def _compile(
        self, key: ProgramKey, function: Callable[..., Any], arguments: tuple[Any, ...], on_compile: OnCompile
    ) -> Any:
        reason = self.reason_to_compile(key)

        def program(*traced: Any) -> Any:
            self.num_traces[key.label] += 1
            return function(self.model, *traced)

        program.__name__ = key.phase  # the name JAX reports to `compile_log`
        replicated = NamedSharding(self.mesh, PartitionSpec())
        jitted = jax.jit(
            program,
            donate_argnums=(1,) if key.is_fixed else (),
            out_shardings=(replicated, self._cache_shardings(arguments[1], key)),
        )
        on_compile(CompilingEvent("tracing", key.phase, reason))
        try:
            lowered = jitted.trace(*arguments).lower()
        except TypeError as err:  # JAX's word for a value, or a shape, that is not known while tracing
            raise UnsupportedModelError(
                f"jit needs shapes and branches that do not depend on values, but {type(self.model.module).__name__} has "
                f"some that do ({str(err).splitlines()[0][:120].rstrip('.')}). Run it with --mode eager."
            ) from err
        on_compile(CompilingEvent("compiling", key.phase, reason))
        return lowered.compile()

    def _cache_shardings(self, cache: KVCache, key: ProgramKey) -> Any:
        """The cache's pytree with shardings for leaves."""
        shardings: Any = self.kv_shardings
        if isinstance(cache, FixedCache):
            return FixedCache(shardings, shardings)
        return GrowingCache(shardings, shardings, cache.seen_len + key.input_len)

    def reason_to_compile(self, key: ProgramKey) -> str:
        """Why `key` needs a compilation, in words, or that it needs none."""
        if key in self._executables:
            return "compiled already"
        if not key.is_fixed and key.phase == "decode_step":
            return (
                f"the cache grew: every key and value array changed its length from {key.cache_len - 1} to "
                f"{key.cache_len}, and a program is compiled for exact shapes"
            )
        others = [other for other in self._executables if other.phase == key.phase and other.is_fixed == key.is_fixed]
        if not others:
            return f"first {key.label}: nothing was compiled for it yet"
        nearest = min(others, key=lambda other: (other.cache_len != key.cache_len) + (other.input_len != key.input_len))
        changes = []
        if nearest.input_len != key.input_len:
            changes.append(f"input_ids changed from (1, {nearest.input_len}) to (1, {key.input_len})")
        if nearest.cache_len != key.cache_len:
            changes.append(f"the cache's capacity changed from {nearest.cache_len} to {key.cache_len}")
        return "; ".join(changes)


def key_of(phase: str, input_len: int, cache: KVCache) -> ProgramKey:
    """The program that `phase` needs to read `input_len` tokens over `cache`."""
    if isinstance(cache, GrowingCache):
        return ProgramKey(phase, input_len, False, cache.seen_len)
    return ProgramKey(phase, input_len, True, next(keys.shape[2] for keys in cache.keys if keys is not None))
