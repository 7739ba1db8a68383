"""Keras's masks: to which tensors Keras would attach one, and the refusal by name of every layer that would use it.

A mask that is passed to a layer (`layer(x, mask=m)`) is a tensor like others. A mask that Keras attaches to a tensor,
such as that of `Masking`, is not computed here: a `SpatialTensor` only knows which layer it would come from, by Keras's
own rules.
"""

import inspect
from typing import Any

import keras
import tensorflow as tf
from keras import layers, tree

from keras_spatial import keras_private
from keras_spatial.engine.tensors import SpatialTensor
from keras_spatial.rules.table import UnsupportedLayer

# Layers that read the masks of their inputs without having an argument for them.
_LOOKING = (layers.Multiply, layers.Maximum, layers.Minimum)
_WAY_OUT = 'nor with unsupported="replicate". Leave the mask out and use sample_weight, or apply it in a layer'


def refuse_use(layer: keras.Layer, args: tuple, kwargs: dict[str, Any]) -> None:
    """Refuse a layer that would use a mask that Keras has attached to one of its inputs.

    Raises:
        UnsupportedLayer: if it would.
    """
    if (source := _source((args, kwargs))) is None or keras_private.functional_part(layer) is not None:
        return
    given = _arguments(layer, args, kwargs)
    tensors = {k: v for k, v in given.items() if any(isinstance(t, SpatialTensor) for t in tree.flatten(v))}
    names = inspect.signature(layer.call).parameters
    taken = {"mask"} if len(tensors) == 1 else {f"{k}_mask" for k, v in tensors.items() if _source(v) is not None}
    if isinstance(layer, _LOOKING) or any(name in names and given.get(name) is None for name in taken):
        raise UnsupportedLayer(_use_of(source))


def refuse_inside(layer: keras.Operation, args: tuple, kwargs: dict[str, Any]) -> None:
    """Refuse to run a layer unchanged if layers inside it might use a mask of its inputs.

    Raises:
        UnsupportedLayer: if they might.
    """
    if (source := _source((args, kwargs))) is not None and _inner_layers(layer):
        raise UnsupportedLayer(_use_of(source))


def reason_of_output(source: keras.Layer) -> str:
    """The reason for refusing a layer whose mask reaches an output of the model."""
    return (
        "its mask reaches an output of the model, where Keras's loss and metrics would use it: masks are not carried "
        f"over a mesh, {_WAY_OUT}"
    )


def makes_masks_inside(layer: keras.Operation) -> bool:
    """Whether one of the layers inside a layer or model makes masks, so that the others may use them."""
    return any(_makes_masks(inner) for inner in _inner_layers(layer))


def marked(layer: keras.Layer, args: tuple, kwargs: dict[str, Any], outputs: Any) -> Any:
    """A layer's outputs, with a mark on those to which Keras would attach a mask."""
    given = kwargs.get("mask")
    source = layer if given is not None else _source((args, kwargs))
    if not layer.supports_masking or (source is None and keras_private.computes_no_mask(layer)):
        return outputs
    flat = tree.flatten(outputs)
    masks = _masks(layer, _first_argument(layer, args, kwargs), given, len(flat))
    flat = [y if m is None else with_mask(y, source or layer) for y, m in zip(flat, masks, strict=True)]
    return tree.pack_sequence_as(outputs, flat)


def with_mask(x: Any, source: keras.Layer) -> Any:
    """Attach a mask to a tensor, unless it has one already. Other values are returned unchanged."""
    return x.masked(source) if isinstance(x, SpatialTensor) and x.mask_source is None else x


def _masks(layer: keras.Layer, first: Any, given: Any, count: int) -> list[Any]:
    def symbol(x: Any) -> Any:
        return keras.KerasTensor(x.shape, dtype=x.dtype.name) if isinstance(x, SpatialTensor) else x

    def mask(x: Any) -> Any:
        carries = isinstance(x, SpatialTensor) and x.mask_source is not None
        return keras.KerasTensor(x.shape[:-1] if x.ndim > 2 else x.shape, dtype="bool") if carries else None

    previous = tree.map_structure(mask, first) if given is None else tree.map_structure(symbol, given)
    try:
        with tf.init_scope():
            found = layer.compute_mask(tree.map_structure(symbol, first), previous)
    except Exception:
        return [True] * count  # A mask that cannot be determined is refused, not ignored.
    masks = [] if found is None else tree.flatten(found)
    return [*masks, *[None] * count][:count]


def _source(values: Any) -> keras.Layer | None:
    """The layer whose mask the first tensor with a mask carries."""
    sources = (x.mask_source for x in tree.flatten(values) if isinstance(x, SpatialTensor))
    return next((source for source in sources if source is not None), None)


def _use_of(source: keras.Layer) -> str:
    return (
        f"it would use the mask of '{keras_private.name_of(source)}' ({type(source).__name__}): masks that Keras "
        f"attaches to tensors are not carried over a mesh, {_WAY_OUT}"
    )


def _arguments(layer: keras.Layer, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    return dict(inspect.signature(layer.call).bind_partial(*args, **kwargs).arguments)


def _first_argument(layer: keras.Layer, args: tuple, kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(_arguments(layer, args, kwargs).values()), None)


def _inner_layers(layer: keras.Operation) -> list[keras.Layer]:
    return keras_private.all_layers(layer, include_self=False) if isinstance(layer, keras.Layer) else []


def _makes_masks(layer: keras.Layer) -> bool:
    if isinstance(layer, layers.Embedding):
        return bool(layer.mask_zero)
    return isinstance(layer, layers.Masking) or keras_private.computes_own_mask(layer)
