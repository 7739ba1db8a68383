"""`ks.recompute`: layers that are computed again in the backward pass, so that their results need not be kept."""

import math
from collections.abc import Sequence

import keras

from keras_spatial.keras_private import all_layers
from keras_spatial.model import Model
from keras_spatial.planning import NothingFits, Plan, plan, readable

Segment = Sequence[keras.Layer | str] | keras.Layer | str


def recompute(
    model: Model,
    blocks: Sequence[Segment] | None = None,
    *,
    memory: int | None = None,
    batch_size: int = 1,
) -> Plan | None:
    """Compute segments of layers again in the backward pass, which saves memory and costs arithmetic.

    Only the inputs of a recomputation segment are kept, and those of its results that other layers read, such as skip
    connections. Outputs, gradients and random numbers stay the same. The setting applies to this model from now on, so
    call it before `fit`. It is not part of a saved file.

    Args:
        model: a partitioned model.
        blocks: the recomputation segments. Each is a layer, or several layers that follow one another; layers are given
            as objects or by name. Fewer and larger segments keep less, but hold more while one of them is computed
            again.
        memory: the memory of one device in bytes, in place of `blocks`. The model is cut into segments, and just enough
            of them are computed again for a training step to fit, starting with those that hold the most.
        batch_size: images per step, if `memory` is given.

    Returns:
        The memory plan of a training step if `memory` is given, otherwise None.

    Raises:
        ValueError: if the model is not partitioned, it has no such layer, or a layer appears in two segments.
        NothingFits: if a step does not fit even if all segments are computed again; the model is then left as it was.

    Example:

    ```python
    down = ["down0_conv1", "down0_norm1", "down0_relu1"]
    up = ["up0_conv1", "up0_norm1", "up0_relu1"]
    ks.recompute(model, [down, up])
    ks.recompute(model, memory=16 * 10**9)
    ```
    """
    if not isinstance(model, Model) or model.distribution is None:
        raise ValueError(
            f"model must be partitioned: made under a distribution or by ks.partition. Received: {model!r}"
        )
    if (blocks is None) == (memory is None):
        raise ValueError(f"Give either `blocks` or `memory`, not both. Received: blocks={blocks}, memory={memory}")
    if blocks is not None:
        _set(model, _numbered(model, blocks))
        return None
    assert memory is not None
    before = dict(model._partition.recompute)
    try:
        return _fit_into(model, memory, batch_size)
    except NothingFits:
        _set(model, before)
        raise


def _fit_into(model: Model, memory: int, batch_size: int) -> Plan:
    _set(model, {})
    planned = plan(model, model.distribution, batch_size)  # pyright: ignore[reportArgumentType]
    best = planned
    candidates = all_segments(model)
    count = 1
    while not planned.fits(memory):
        if count > len(candidates):
            raise NothingFits(
                f"Computing all layers again is not enough for {readable(memory)} per device: use a larger mesh.\n"
                f"{best.explain(memory)}"
            )
        _set(model, _numbered(model, candidates[:count]))
        planned = plan(model, model.distribution, batch_size)  # pyright: ignore[reportArgumentType]
        best = min(best, planned, key=lambda p: p.memory)
        # Each attempt costs a trace of the step, so the count doubles, and the last attempt takes all of them.
        count = len(candidates) if count < len(candidates) < 2 * count else 2 * count
    return planned


def all_segments(model: keras.Model) -> list[list[keras.Layer]]:
    """All layers of a model, in the segments into which `recompute` cuts it."""
    return _by_size(_runs(model))


def _runs(model: keras.Model) -> list[list[keras.Layer]]:
    """Layers that follow one another, cut where the size of the image changes."""
    runs: list[list[keras.Layer]] = []
    size = None
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        image = _result(layer).shape[1:-1]
        if size != image or not runs or isinstance(layer, keras.layers.Concatenate):
            runs.append([])
            size = image
        runs[-1].append(layer)
    return runs


def _result(layer: keras.Layer) -> keras.KerasTensor:
    """The first result of a layer."""
    return keras.tree.flatten(layer.output)[0]


def _by_size(runs: list[list[keras.Layer]]) -> list[list[keras.Layer]]:
    """The runs with the most elements in their results first, and the model's last run at the end.

    The backward pass begins with the last run, so computing it again would hold all its results again at once.
    """

    def elements(run: list[keras.Layer]) -> int:
        return sum(math.prod(size or 1 for size in _result(layer).shape[1:]) for layer in run)

    return [*sorted(runs[:-1], key=elements, reverse=True), *runs[-1:]]


def _numbered(model: Model, segments: Sequence[Segment]) -> dict[str, int]:
    known = {layer.name for layer in all_layers(model, include_self=False)}
    numbers: dict[str, int] = {}
    for number, segment in enumerate(segments):
        members = [segment] if isinstance(segment, (str, keras.Layer)) else list(segment)
        for member in members:
            name = member if isinstance(member, str) else member.name
            if name not in known:
                raise ValueError(f"Model '{model.name}' has no such layer. Received: '{name}' in blocks")
            if name in numbers:
                raise ValueError(f"A layer belongs to one segment. Received: '{name}' twice")
            numbers[name] = number
    return numbers


def _set(model: Model, numbers: dict[str, int]) -> None:
    model._partition.recompute = numbers
    # Functions that were traced before do not have the new segments.
    model._partition.functions.clear()
    model.train_function = None
