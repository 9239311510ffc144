"""A config that somebody gave becomes Transformers' own: nothing is fetched, no path is read, no foreign code runs.

Knows nothing of how the text was read (`config_text` has checked every number) or of what is built from the config.
"""

from typing import Any

import transformers
from transformers import CONFIG_MAPPING

from hfjax_demo.config_text import FIELD
from hfjax_demo.errors import InvalidRequestError, UnsupportedModelError
from hfjax_demo.inference.config_fields import layer_number
from hfjax_demo.inference.model_config import check_causal, first_line
from hfjax_demo.requests import shown_value

NEVER_READ = frozenset({"auto_map", "attn_implementation", "experts_implementation", "quantization_config"})
"""Fields of a given config that would fetch code or change what is built; those that begin with "_" are dropped too."""

REQUIRED = (
    ("hidden_size", ("n_embd", "n_embed", "d_model")),
    ("num_hidden_layers", ("n_layer", "n_layers", "num_layers")),
)
"""What Transformers would fill in with another model's numbers, each with other spellings that its classes take."""

TELLING = ("vocab_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "max_position_embeddings")
"""What it may fill in, if that is told: fields that public configs leave out here and there."""


def config_from_dict(values: dict[str, Any]) -> tuple[Any, dict[str, int]]:
    """The Transformers config of a config.json that somebody gave, checked to be a causal language model's.

    Nothing is fetched or read from a path, and no code but Transformers' own runs.

    Args:
        values: of `config_text.parse_config`.

    Returns:
        The config, and what it has of `TELLING` that `values` left to Transformers' defaults.

    Raises:
        InvalidRequestError: of the field "config".
    """
    model_type = values["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise _refused(
            f"A model must be one that Transformers {transformers.__version__} knows without running the repository's own "
            f"code, but it has no model_type {shown_value(model_type)}. Use another model."
        )
    kept = {name: value for name, value in values.items() if name not in NEVER_READ and not name.startswith("_")}
    try:
        config = CONFIG_MAPPING[model_type].from_dict(kept)
        check_causal(config, "this config")
    except UnsupportedModelError as err:
        raise _refused(str(err)) from err
    except Exception as err:  # whatever a config's class makes of values it was not written for
        raise _refused(
            f"A config's values must fit its model_type, but those of this {model_type} do not: {first_line(err)} Correct "
            "them."
        ) from err
    return config, _assumed(config, values)


def _assumed(config: Any, values: dict[str, Any]) -> dict[str, int]:
    """What of `TELLING` comes from Transformers' defaults; refuses a config that lacks what is `REQUIRED`."""
    text_config = config.get_text_config(decoder=True)
    nested = values.get("text_config")
    given = set(values) | (set(nested) if isinstance(nested, dict) else set())
    spelling = getattr(text_config, "attribute_map", None) or {}
    for name, others in REQUIRED:
        written = spelling.get(name, name)
        if layer_number(text_config, name, 0) and not given & {name, written, *others}:
            raise _refused(
                f"A config must have its own {written}, but this {config.model_type} has none. Add it, or give the whole "
                "config.json."
            )
    defaults = {name: layer_number(text_config, name, 0) for name in TELLING}
    return {
        spelling.get(name, name): value
        for name, value in defaults.items()
        if value and not given & {name, spelling.get(name, name)}
    }


def _refused(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field=FIELD)
