"""Outputs that a model needs whole, joined where they come out: fused queries, keys and values, or gates and ups.

Left to itself XLA cuts such outputs as their users are cut and moves each piece there: up to dozens of permutations a layer
where one all-gather does. Hooks on the unchanged model ask for that one, for the length of one forward pass. Knows nothing
of which modules these are (`mesh_layout`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hfjax_demo.inference.environment import call_jax
from hfjax_demo.inference.mesh_layout import MeshLayout

RESHAPED = frozenset({torch.Tensor.view, torch.Tensor.reshape, torch.Tensor.unsqueeze})
CUT = frozenset({torch.Tensor.split, torch.Tensor.chunk, torch.Tensor.__getitem__, torch.split, torch.chunk})


@contextmanager
def outputs_joined(module: torch.nn.Module, layout: MeshLayout | None) -> Iterator[None]:
    """While it lasts, the modules that `layout.gathered` names give all outputs to every device. On one thread at a time."""
    if layout is None or not layout.gathered:
        yield
        return
    pieces = _WholePieces(layout)
    hooks, experts = [], []
    for path, is_split in layout.gathered.items():
        part: Any = module.get_submodule(path)
        if hasattr(
            part, "_apply_gate"
        ):  # no module makes gates and ups; the method that parts them is the first to see them
            experts.append(part)
            part._apply_gate = _joining_first(part._apply_gate, pieces, is_split)
        else:
            hooks.append(part.register_forward_hook(_joining_hook(pieces, is_split)))
    try:
        with pieces:
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for part in experts:
            del part._apply_gate


class _WholePieces(TorchFunctionMode):
    """Joins outputs and sees to it that what is cut from them is whole too: a cut's layout else follows from its users."""

    def __init__(self, layout: MeshLayout) -> None:
        super().__init__()
        self._layout = layout
        self._joined: list[torch.Tensor] = []

    def join(self, output: torch.Tensor, is_split: bool) -> torch.Tensor:
        joined: torch.Tensor = call_jax(self._layout.joined_outputs if is_split else self._layout.joined, output)
        self._joined = [joined]  # cut, if at all, before the next is made
        return joined

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if (func in RESHAPED or func in CUT) and any(args[0] is joined for joined in self._joined):
            if func in RESHAPED:
                self._joined.append(result)
            elif isinstance(result, torch.Tensor):
                result = call_jax(self._layout.joined, result)
            else:
                result = type(result)(call_jax(self._layout.joined, piece) for piece in result)
        return result


def _joining_hook(pieces: _WholePieces, is_split: bool) -> Callable[[torch.nn.Module, Any, torch.Tensor], torch.Tensor]:
    return lambda _, __, output: pieces.join(output, is_split)


def _joining_first(apply_gate: Callable[..., Any], pieces: _WholePieces, is_split: bool) -> Callable[..., Any]:
    return lambda gates_and_ups, *others: apply_gate(pieces.join(gates_and_ups, is_split), *others)
