"""What a model would need, from its config alone: cache and weights, shapes, bytes, placement and what fits where.

The model is built without weights and asked (`anatomy`); no formula here can disagree with what the engine allocates. Reads
no weight; knows nothing of requests.
"""

from dataclasses import dataclass

from hfjax_demo.cache_formula import cache_formula
from hfjax_demo.cache_plan import CacheForm, cache_bytes, layer_groups
from hfjax_demo.config_text import FIELD, parse_config
from hfjax_demo.errors import InvalidRequestError, ModelLoadError, UnsupportedModelError
from hfjax_demo.events import Mesh
from hfjax_demo.inference.anatomy import Anatomy, read_anatomy
from hfjax_demo.inference.device_mesh import MODEL_AXIS
from hfjax_demo.inference.gguf_conversion import prefer_converted
from hfjax_demo.inference.given_config import config_from_dict
from hfjax_demo.inference.mesh_plan import expected_collectives, plan_rules
from hfjax_demo.inference.model_config import first_line, load_config, quiet_transformers
from hfjax_demo.inference.model_files import Progress
from hfjax_demo.inference.model_sources import resolve_config
from hfjax_demo.inference.weights_plan import plan_weights
from hfjax_demo.kv_shapes import DTYPE_BYTES, plan_kv_cache
from hfjax_demo.model_plan import Inspection
from hfjax_demo.planning import DeviceNeeds, context_curve, fit_accelerators
from hfjax_demo.settings import Settings

MAX_CONTEXT_LEN = 100_000_000
MAX_BATCH_SIZE = 1_000_000
MAX_TENSOR_PARALLEL = 65_536
GIVEN_CONFIG = "the config given"


@dataclass(frozen=True)
class _Numbers:
    """What is planned with; checked on construction."""

    context_len: int | None
    batch_size: int
    dtype: str
    tensor_parallel: int

    def __post_init__(self) -> None:
        _check("batch_size", self.batch_size, MAX_BATCH_SIZE)
        _check("tensor_parallel", self.tensor_parallel, MAX_TENSOR_PARALLEL)
        if self.context_len is not None:
            _check("context_len", self.context_len, MAX_CONTEXT_LEN)
        if self.dtype not in DTYPE_BYTES:
            raise InvalidRequestError(
                f"dtype must be one of {', '.join(DTYPE_BYTES)} but is {self.dtype!r}. Pick one of them.", field="dtype"
            )


def inspect_model(
    name: str,
    settings: Settings,
    progress: Progress,
    allow_local: bool,
    context_len: int | None = None,
    batch_size: int = 1,
    dtype: str = "float32",
    tensor_parallel: int = 1,
) -> Inspection:
    """Plans a model's cache and weights from its config.

    Args:
        name: catalog name, bundled config's name, Hub id, or local folder (a config.json is enough) or GGUF file.
        settings: cache folder.
        progress: told what is happening.
        allow_local: whether `name` may be a path.
        context_len: positions; None means the model's own context, or 2048 where that has no limit.
        batch_size: sequences.
        dtype: a key of `DTYPE_BYTES`.
        tensor_parallel: devices of the planned mesh; may be more than there are.

    Raises:
        InvalidRequestError: a number or dtype breaks its rule.
        HfJaxDemoError: the config is not there or not a causal language model's.
    """
    numbers = _Numbers(context_len, batch_size, dtype, tensor_parallel)
    with quiet_transformers():
        source = prefer_converted(resolve_config(name, progress, allow_local), settings.cache_dir)
        anatomy = read_anatomy(load_config(source))
    return _inspection(name, source.label, anatomy, numbers, {})


def inspect_config(
    text: str,
    context_len: int | None = None,
    batch_size: int = 1,
    dtype: str = "float32",
    tensor_parallel: int = 1,
) -> Inspection:
    """Plans from a config.json that somebody gave as text; it need not be anyone's that exists.

    Args:
        text: JSON. Nothing that it names is fetched, read or run.
        context_len: as `inspect_model`'s, and so are the rest.
        batch_size: sequences.
        dtype: a key of `DTYPE_BYTES`.
        tensor_parallel: devices of the planned mesh.

    Raises:
        InvalidRequestError: a number or dtype breaks its rule, or, of the field "config", the text is not a config of a
            causal language model that can be built within the bounds of `config_text` and `anatomy`.
    """
    numbers = _Numbers(context_len, batch_size, dtype, tensor_parallel)
    values = parse_config(text)
    with quiet_transformers():
        config, assumed = config_from_dict(values)
        try:
            anatomy = read_anatomy(config)
        except (ModelLoadError, UnsupportedModelError) as err:
            raise InvalidRequestError(str(err), field=FIELD) from err
        except Exception as err:  # values that are each in bounds and that a model's code was never written for
            raise InvalidRequestError(
                f"A config must build a model, but this {values['model_type']} does not: {first_line(err)} Correct it.",
                field=FIELD,
            ) from err
    return _inspection(f"{values['model_type']} config", GIVEN_CONFIG, anatomy, numbers, assumed)


def _inspection(name: str, source: str, anatomy: Anatomy, numbers: _Numbers, assumed: dict[str, int]) -> Inspection:
    batch_size, dtype, parts = numbers.batch_size, numbers.dtype, numbers.tensor_parallel
    length = numbers.context_len or anatomy.max_context_len or 2048
    weights, decode = plan_weights(anatomy, dtype, parts)
    groups = layer_groups(anatomy.layers)
    needs = DeviceNeeds(weights.bytes_per_device, decode.read_bytes_per_device, groups, dtype, parts)
    return Inspection(
        model=name,
        source=source,
        architecture=anatomy.architecture,
        num_attention_heads=anatomy.heads.num_attention_heads,
        max_context_len=anatomy.max_context_len,
        batch_size=batch_size,
        context_len=length,
        dtype=dtype,
        kv_cache=plan_kv_cache(anatomy.layers, batch_size, length, dtype, parts),
        weights=weights,
        mesh=Mesh(MODEL_AXIS, parts, ()),
        layers=anatomy.layers,
        forms=tuple(cache_bytes(groups, form, batch_size, length, dtype, parts) for form in CacheForm),
        formulas=tuple(cache_formula(groups, form, batch_size, length, dtype, anatomy.fields) for form in CacheForm),
        bytes_per_token_full_heads=cache_bytes(groups, CacheForm.FULL_HEADS, 1, 1, dtype).total_bytes,
        decode=decode,
        accelerators=fit_accelerators(needs, batch_size, length),
        curve=context_curve(needs, batch_size, max(length, anatomy.max_context_len or 1)),
        rules=plan_rules(anatomy, dtype, parts),
        collectives=expected_collectives(anatomy, dtype, parts),
        assumed=assumed,
    )


def _check(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise InvalidRequestError(f"{name} must be from 1 to {most} but is {value}. Use a number in between.", field=name)
