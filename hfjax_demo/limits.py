"""What the operator lets a visitor ask for: which models, how long a prompt, how many new tokens.

For requests from outside (the page, the JSON API, agents); the command line is the operator's own and is limited by the
devices alone. Knows nothing of how long a request runs (the engine stops it) nor of what a model can hold (`buckets`).
"""

from hfjax_demo.catalog import CATALOG, CatalogModel, find_in_catalog
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import EnvironmentFacts
from hfjax_demo.known_configs import find_known_config
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import ANY_MODEL, ENV_PREFIX, Settings

MAX_NAME_CHARS = 96
"""Characters of a refused model's name that its message repeats: the longest a Hub id can be."""


def check_limits(request: GenerationRequest, settings: Settings) -> None:
    """Refuses what the operator does not allow.

    Raises:
        InvalidRequestError: the model, the prompt's length or the number of new tokens; `field` says which.
    """
    if not _is_allowed(request.model, settings):
        raise InvalidRequestError(
            f"The model must be one of {', '.join(offered_models(settings))} here but is "
            f"{request.model[:MAX_NAME_CHARS]!r}. Pick one of them; the operator changes the list with {ENV_PREFIX}MODELS.",
            field="model",
        )
    if (num_chars := len(request.prompt)) > settings.max_prompt_chars:
        raise InvalidRequestError(
            f"A prompt may have at most {settings.max_prompt_chars} characters here but has {num_chars}. Shorten it by "
            f"{num_chars - settings.max_prompt_chars}; the operator raises the limit with {ENV_PREFIX}MAX_PROMPT_CHARS.",
            field="prompt",
        )
    if request.max_new_tokens > settings.max_new_tokens:
        raise InvalidRequestError(
            f"A request may ask for at most {settings.max_new_tokens} new tokens here but asks for "
            f"{request.max_new_tokens}. Ask for fewer; the operator raises the limit with {ENV_PREFIX}MAX_NEW_TOKENS.",
            field="max_new_tokens",
        )


def check_devices(request: GenerationRequest, environment: EnvironmentFacts | None) -> None:
    """Refuses a mesh larger than this process can make.

    Args:
        request: to be run, not only planned.
        environment: where it would run; None where JAX is still coming up: then nothing is refused yet.

    Raises:
        InvalidRequestError: of the field "tensor_parallel".
    """
    if environment is None or has_devices(request.tensor_parallel, environment):
        return
    total, processes, backend = environment.num_devices, environment.num_processes, environment.backend
    each = total // processes
    asked = f"{request.tensor_parallel} were asked for but"
    more = f", or start with --devices {-(-request.tensor_parallel // processes)}" if backend == "cpu" else ""
    if processes == 1:
        devices = f"{total} device{'' if total == 1 else 's'} ({backend})"
        raise InvalidRequestError(
            f"The tensor-parallel size may be at most the number of devices: {asked} this process has {devices}. Use "
            f"{total} or less{more}.",
            field="tensor_parallel",
        )
    raise InvalidRequestError(
        f"The tensor-parallel size may be a multiple of the {processes} processes up to their {total} devices, or at most "
        f"those of process 0 alone: {asked} each process has {each} ({backend}). Use {total}{more} on each process.",
        field="tensor_parallel",
    )


def has_devices(tensor_parallel: int, environment: EnvironmentFacts) -> bool:
    """Whether a mesh of that size can be made: over all processes where it divides by them, else on process 0 alone."""
    is_shared = tensor_parallel % environment.num_processes == 0
    total = environment.num_devices
    return tensor_parallel <= (total if is_shared else total // environment.num_processes)


def check_may_inspect(request: GenerationRequest, settings: Settings) -> None:
    """Refuses to look at a model that may not be run, unless its config is bundled: nothing is fetched for that.

    Raises:
        InvalidRequestError: of the field "model".
    """
    if find_known_config(request.model) is None:
        check_limits(request, settings)


def may_type_any_model(settings: Settings) -> bool:
    """Whether a visitor may name models beyond those offered."""
    return settings.models.strip().casefold() == ANY_MODEL


def allowed_catalog(settings: Settings) -> tuple[CatalogModel, ...]:
    """The catalog's models that a visitor may pick, in the catalog's order."""
    return tuple(model for model in CATALOG if _is_allowed(model.name, settings))


def offered_models(settings: Settings) -> tuple[str, ...]:
    """Names for the picker: the allowed catalog names, then the operator's Hub ids that the catalog lacks."""
    extra = {_identity(name): name for name in settings.listed_models if find_in_catalog(name) is None}
    return (*(model.name for model in allowed_catalog(settings)), *extra.values())


def _is_allowed(name: str, settings: Settings) -> bool:
    if settings.listed_models:
        return _identity(name) in {_identity(listed) for listed in settings.listed_models}
    return may_type_any_model(settings) or find_in_catalog(name) is not None


def _identity(name: str) -> str:
    """The same text for every spelling of one model."""
    model = find_in_catalog(name)
    return (model.name if model else name).casefold()
