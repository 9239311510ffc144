"""Where the Mesh tab's plans and measured meshes come from: what it asks the engine, and what may be run here.

Knows nothing of components, nor of how anything is drawn.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hfjax_demo.catalog import find_in_catalog
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import EnvironmentFacts, RunRecord
from hfjax_demo.known_configs import KNOWN_CONFIGS
from hfjax_demo.limits import check_limits, check_may_inspect, has_devices, offered_models
from hfjax_demo.mesh_agreement import MeshKey, agreement, capacity_of
from hfjax_demo.model_plan import Inspection
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings
from hfjax_demo.ui.mesh_html import MeasuredMesh
from hfjax_demo.ui.run_history import RunHistory
from hfjax_demo.ui.words import plural

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

NEW_TOKENS = 8
"""Of the run that measures a mesh: where weights and cache lie does not change with the tokens."""


def model_choices(settings: Settings) -> list[tuple[str, str]]:
    """What the picker offers: models that a visitor may run, then configs that can be planned only."""
    notes = {known.name: known.note for known in KNOWN_CONFIGS}
    offered = offered_models(settings)
    names = [*offered, *(name for name in notes if name not in offered)]
    return [(f"{name} · {notes[name]}" if name in notes else name, name) for name in names]


async def make_plan(engine: "InferenceEngine", values: Sequence[Any]) -> Inspection:
    """The plan of the inputs' values: model, size, dtype, context length; no weight is loaded.

    Raises:
        HfJaxDemoError: what cannot be planned for; the message names the input.
    """
    model, size, dtype, context_len = values
    check_may_inspect(GenerationRequest("?", model or "", max_new_tokens=1), engine.settings)
    numbers: dict[str, Any] = {"tensor_parallel": _whole("tensor-parallel size", size), "dtype": dtype}
    if context_len:
        numbers["context_len"] = _whole("context length", context_len)
    return await asyncio.to_thread(engine.inspect, model, **numbers)


def _whole(name: str, value: Any) -> int:
    if value is None:
        raise InvalidRequestError(f"The {name} must be a whole number from 1 but is empty. Type one, such as 2.")
    return int(value)


def request_of(values: Sequence[Any]) -> GenerationRequest:
    """The run that the inputs' values ask for: jit over a fixed cache of exactly the context length.

    Raises:
        InvalidRequestError: a value breaks its rule.
    """
    model, size, dtype, context_len, prompt = values
    return GenerationRequest(
        prompt,
        model,
        max_new_tokens=NEW_TOKENS,
        ignore_eos=True,
        dtype=dtype,
        tensor_parallel=_whole("tensor-parallel size", size),
        max_cache_len=int(context_len) if context_len else None,
    )


def why_not_run(plan: Inspection, settings: Settings, environment: EnvironmentFacts | None) -> str | None:
    """Why a plan cannot be run here: the rule, the numbers, a way out; None where it can."""
    if plan.mesh.size == 1:
        return "One device holds everything, so there is nothing to measure. Pick 2 or more."
    known = find_in_catalog(plan.model)
    if known is None and "/" not in plan.model:
        return "This config is bundled without its weights. To run the model, type its Hub id."
    if environment and not has_devices(plan.mesh.size, environment):
        return _missing_devices(plan.mesh.size, environment)
    try:
        check_limits(GenerationRequest("?", plan.model, max_new_tokens=1), settings)
    except InvalidRequestError as err:
        return str(err)
    if plan.context_len > settings.max_cache_len:
        return (
            f"A run's cache may have at most {settings.max_cache_len:,} positions here but this plan has "
            f"{plan.context_len:,}. Plan for fewer."
        )
    return None


def _missing_devices(size: int, environment: EnvironmentFacts) -> str:
    devices, processes = plural(environment.num_devices, "device"), environment.num_processes
    has = f"This process has {devices}" if processes == 1 else f"These {processes} processes have {devices}"
    each = "" if processes == 1 else " on each"
    way_out = f"start it with --devices {-(-size // processes)}{each}" if environment.backend == "cpu" else "pick fewer"
    return f"{has} and cannot run it: {way_out}."


def state_words(plan: Inspection, measured: MeasuredMesh | None, problem: str | None) -> str:
    """What stands beside "planned": where it is from, and what a visitor can do."""
    if measured:
        beside = f"from the config; {measured.name} on this mesh is beside it."
        if measured.plan.context_len != plan.context_len:
            beside += f" Bytes of the devices are at that run's {measured.plan.context_len:,} positions."
        return beside
    source = "from the config; nothing has run on this mesh yet."
    return f"{source} {problem or 'Press “Run on this mesh” to measure it.'}"


async def find_measured(
    engine: "InferenceEngine", history: RunHistory, seen: tuple[MeasuredMesh, ...], plan: Inspection
) -> MeasuredMesh | None:
    """The visit's newest run on the planned mesh, held against the plan of its own cache length; None without one.

    Args:
        engine: plans for that length.
        history: of the visit.
        seen: what was found last, if anything; the same run is not read again.
        plan: of the inputs.
    """
    run = history.newest_on(MeshKey(plan.model, plan.mesh.size, plan.dtype))
    if run is None:
        return None
    if seen and seen[0].name == run.name:
        return seen[0]
    record: RunRecord = await asyncio.to_thread(lambda: run.record)
    assert record.mesh is not None  # or the history would not have found it
    numbers: dict[str, Any] = {"dtype": plan.dtype, "tensor_parallel": plan.mesh.size}
    numbers["context_len"] = capacity_of(record)
    at_its_length = await asyncio.to_thread(engine.inspect, plan.model, **numbers)
    return MeasuredMesh(run.name, at_its_length, record.mesh, agreement(at_its_length, record.mesh))
