"""The inputs of a request as components, and back: one component a field of `GenerationRequest`, in its order.

Knows nothing of what happens with the request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from hfjax_demo.catalog import DEFAULT_MODEL, find_in_catalog
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import EnvironmentFacts
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.limits import check_devices, check_limits, may_type_any_model, offered_models
from hfjax_demo.requests import DEFAULT_CACHE, MAX_SEED, ExecutionMode, GenerationRequest
from hfjax_demo.settings import Settings
from hfjax_demo.ui.components import AT_ONCE, text_html
from hfjax_demo.ui.words import CACHE_CHOICES, CACHE_EXPLANATIONS, MODE_CHOICES, plural

FIELDS = tuple(field.name for field in fields(GenerationRequest))
WHOLE_NUMBERS = {"max_new_tokens", "top_k", "seed", "tensor_parallel", "max_cache_len"}
PARALLEL_INFO = "Devices that weights and cache are split over."

EXAMPLES = [
    "The secret to baking a good cake is",
    "Explain to a child why the sky is blue.",
    "Write a haiku about a compiler.",
    "List three uses for a paper clip, one per line.",
]


@dataclass(frozen=True)
class RequestInputs:
    """The components of one request, by field name."""

    by_field: dict[str, Any]

    @property
    def components(self) -> list[Any]:
        """All of them, in the order of `FIELDS`: a handler's inputs."""
        return [self.by_field[name] for name in FIELDS]


def request_from(values: Sequence[Any]) -> GenerationRequest:
    """The request that a handler's input values describe.

    Raises:
        InvalidRequestError: a field breaks its rule.
    """
    return GenerationRequest(**{name: _plain(name, value) for name, value in zip(FIELDS, values, strict=True)})


def check(values: Sequence[Any], settings: Settings, environment: EnvironmentFacts | None) -> list[dict[str, Any]]:
    """One `gr.validate` a field: the first rule broken is shown at its component, and what was typed stays."""
    broken: InvalidRequestError | None = None
    try:
        request = request_from(values)
        check_limits(request, settings)
        check_devices(request, environment)
    except InvalidRequestError as err:
        broken = err
    at = None if broken is None else broken.field if broken.field in FIELDS else "prompt"
    return [gr.validate(name != at, str(broken or "")) for name in FIELDS]


def _plain(name: str, value: Any) -> Any:
    if name == "max_cache_len" and value == 0:
        return None  # what gradio 6.31 makes of an empty number once its accordion has been opened
    if name in WHOLE_NUMBERS and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def create_prompt_inputs(settings: Settings, statuses: dict[str, str], prefix: str = "") -> dict[str, Any]:
    """Model, prompt and chat.

    Args:
        settings: what the operator allows.
        statuses: where each catalog model is: "packaged", "downloaded" or "on the Hub".
        prefix: of the elements' ids, which must be unique on the page.
    """
    may_type = may_type_any_model(settings)
    model = gr.Dropdown(
        [(model_words(name, statuses), name) for name in offered_models(settings)],
        value=offered_models(settings)[0],
        label="Model",
        info="Pick one, or type any Hub id such as owner/name." if may_type else None,
        allow_custom_value=may_type,
        filterable=may_type,
        elem_id=f"{prefix}model",
    )
    prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=3, max_lines=12, elem_id=f"{prefix}prompt")
    entry = find_in_catalog(offered_models(settings)[0])
    chat = gr.Checkbox(
        bool(entry and entry.is_instruct),
        label="Chat template",
        info="On: the model answers you. Off: it continues your text.",
        elem_id=f"{prefix}chat",
    )
    return {"model": model, "prompt": prompt, "chat": chat}


def create_mode_inputs(mode: str, cache: str, prefix: str = "", label: str = "Run as") -> dict[str, Any]:
    """The eager / jit toggle and the cache under it, legal pairs only, with a sentence on what the pair does."""
    choices = CACHE_CHOICES[ExecutionMode(mode)]
    mode_radio = gr.Radio(MODE_CHOICES, value=mode, label=label, elem_id=f"{prefix}mode")
    cache_radio = gr.Radio(choices, value=cache, label="KV cache", elem_id=f"{prefix}cache")
    explanation = gr.HTML(_explained(mode, cache), elem_id=f"{prefix}explanation")
    mode_radio.input(caches_for, [mode_radio], [cache_radio], trigger_mode="always_last", **AT_ONCE)
    gr.on([mode_radio.change, cache_radio.change], _explained, [mode_radio, cache_radio], [explanation], **AT_ONCE)
    return {"mode": mode_radio, "cache": cache_radio}


def create_length_input(settings: Settings, value: int, prefix: str = "") -> gr.Slider:
    """How many tokens, up to the operator's limit."""
    most = settings.max_new_tokens
    return gr.Slider(1, most, value=min(value, most), step=1, label="New tokens, at most", elem_id=f"{prefix}max-new-tokens")


def connect_chat(by_field: dict[str, Any]) -> None:
    """Turns chat on for models that are tuned for it, off for others, when the model is picked."""
    by_field["model"].input(is_instruct, [by_field["model"]], [by_field["chat"]], trigger_mode="always_last", **AT_ONCE)


def create_sampling_inputs() -> dict[str, Any]:
    """How the next token is picked."""
    return {
        "temperature": gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info="0 is greedy: always the likeliest."),
        "top_k": gr.Number(0, label="Top k", info="Among the k likeliest; 0 is off.", precision=0, minimum=0),
        "top_p": gr.Slider(0.01, 1, value=1, step=0.01, label="Top p", info="Among the likeliest that reach p; 1 is off."),
        "seed": gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED),
        "ignore_eos": gr.Checkbox(False, label="Go on after the end-of-sequence token"),
    }


def create_placement_inputs(tensor_parallel: int = 1, prefix: str = "") -> dict[str, Any]:
    """In what numbers and over how many devices, `tensor_parallel` at first."""
    return {
        "dtype": gr.Dropdown(list(DTYPE_BYTES), value="float32", label="dtype", info="Of weights and cache."),
        "tensor_parallel": gr.Number(
            tensor_parallel,
            label="Tensor-parallel size",
            info=PARALLEL_INFO,
            precision=0,
            elem_id=f"{prefix}tensor-parallel",
        ),
        "max_cache_len": gr.Number(
            None, label="Fixed cache, positions", info="Empty or 0: the smallest size that fits.", precision=0
        ),
    }


def parallel_info(environment: EnvironmentFacts | None) -> str:
    """What stands below the tensor-parallel size: what it does and how many devices there are, once that is known."""
    if environment is None:
        return PARALLEL_INFO
    processes, devices = environment.num_processes, plural(environment.num_devices, "device")
    has = f"This process has {devices}" if processes == 1 else f"These {processes} processes have {devices}"
    more = "; --devices makes more" if environment.backend == "cpu" else ""
    return f"{PARALLEL_INFO} {has} ({environment.backend}){more}. The Mesh tab draws how."


def model_words(name: str, statuses: dict[str, str]) -> str:
    """A picker line: name, size, and whether it is here already."""
    entry = find_in_catalog(name)
    if entry is None:
        return name
    millions = entry.num_parameters / 1e6
    size = f"{millions:,.0f} M" if millions < 1000 else f"{millions / 1000:.1f} B"
    return f"{name} · {size} parameters · {'here' if statuses.get(name) != 'on the Hub' else 'download from the Hub'}"


def caches_for(mode: str, cache: str = "") -> Any:
    """The cache picker for a mode: legal choices only, `cache` where it is one of them, else the mode's default."""
    choices = CACHE_CHOICES[ExecutionMode(mode)]
    is_legal = cache in [value for _, value in choices]
    return gr.Radio(choices=choices, value=cache if is_legal else str(DEFAULT_CACHE[ExecutionMode(mode)]))


def _explained(mode: str, cache: str) -> str:
    """One sentence on what this pair does; empty while the two radios do not fit each other yet."""
    return text_html(CACHE_EXPLANATIONS.get((mode, cache), ""), class_name="explanation")


def is_instruct(model: str) -> bool:
    """Whether chat is the sensible default; true for the default model, false for what the catalog does not know."""
    entry = find_in_catalog(model or DEFAULT_MODEL)
    return bool(entry and entry.is_instruct)
