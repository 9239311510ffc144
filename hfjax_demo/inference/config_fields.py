"""Reading numbers off a Transformers config whose layers may differ: by a list with one number a layer, or a config of each.

Knows nothing of what the numbers mean.
"""

from typing import Any


def layer_number(config: Any, name: str, layer: int) -> int:
    """The field `name` of one layer; 0 where the config has none or it is no whole number."""
    value = _value(config, name)
    if value is _DIFFERS:
        value = getattr(config.per_layer_config[layer], name, None)
    if isinstance(value, list | tuple):
        value = value[layer] if layer < len(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def layer_numbers(config: Any, name: str) -> tuple[int, ...]:
    """Each number that the field `name` has in some layer, once, without 0."""
    num_layers = _value(config, "num_hidden_layers")
    layers = range(num_layers if isinstance(num_layers, int) else 1)
    return tuple(number for number in dict.fromkeys(layer_number(config, name, layer) for layer in layers) if number)


_DIFFERS = object()


def _value(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except RuntimeError:  # Transformers' AmbiguousGlobalPerLayerAttributeError: ask a layer
        return _DIFFERS
