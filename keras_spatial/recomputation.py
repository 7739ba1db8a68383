"""`ks.recompute`: layers that are computed again in the backward pass instead of being kept for it."""

import math
from collections.abc import Sequence

import keras

from keras_spatial.keras_private import all_layers
from keras_spatial.model import Model
from keras_spatial.planning import NothingFits, Plan, plan, readable

Block = Sequence[keras.Layer | str] | keras.Layer | str


def recompute(
    model: Model,
    blocks: Sequence[Block] | None = None,
    *,
    memory: int | None = None,
    batch_size: int = 1,
) -> Plan | None:
    """Let blocks of layers be computed again in the backward pass: less memory for more arithmetic.

    Of a block only what enters it is kept; its results are kept if other layers read them, such as skip connections.
    Outputs, gradients and random numbers are the same as without. It holds for this model from now on; call it before
    `fit`. It is no part of a saved file.

    Args:
        model: a partitioned model.
        blocks: each a layer, or several that follow one another, by themselves or their names. The fewer and larger
            the blocks, the less is kept, but the more is held while one of them is computed again.
        memory: in place of `blocks`: bytes of one device. The model is cut into blocks, and as few of them are computed
            again as fit, those that hold the most first.
        batch_size: images per step, for `memory`.

    Returns:
        With `memory` the `Plan` of a training step, else None.

    Raises:
        ValueError: if the model is not partitioned, or has no such layer, or one stands in two blocks.
        NothingFits: if computing all again is not enough; the model is then left as it was.

    Example:

    ```python
    ks.recompute(model, [["down0_conv1", "down0_norm1", "down0_relu1"], ["up0_conv1", "up0_norm1", "up0_relu1"]])
    ks.recompute(model, memory=16 * 10**9)
    ```
    """
    if not isinstance(model, Model) or model.distribution is None:
        raise ValueError(
            f"model must be partitioned: made under a distribution or by ks.partition. Received: {model!r}"
        )
    if (blocks is None) == (memory is None):
        raise ValueError(f"Say either blocks or memory. Received: blocks={blocks}, memory={memory}")
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
    candidates = all_blocks(model)
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
        # Each try costs a trace of the step: by factors of two, and all of them last.
        count = len(candidates) if count < len(candidates) < 2 * count else 2 * count
    return planned


def all_blocks(model: keras.Model) -> list[list[keras.Layer]]:
    """All layers of a model in the blocks that `recompute` cuts it into."""
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
    """The first of a layer's results."""
    return keras.tree.flatten(layer.output)[0]


def _by_size(runs: list[list[keras.Layer]]) -> list[list[keras.Layer]]:
    """Those with the most voxels in their results first; at the end the last layers, since the backward pass, which
    begins with them, would hold them at once again."""

    def elements(run: list[keras.Layer]) -> int:
        return sum(math.prod(size or 1 for size in _result(layer).shape[1:]) for layer in run)

    return [*sorted(runs[:-1], key=elements, reverse=True), *runs[-1:]]


def _numbered(model: Model, blocks: Sequence[Block]) -> dict[str, int]:
    known = {layer.name for layer in all_layers(model, include_self=False)}
    numbers: dict[str, int] = {}
    for number, block in enumerate(blocks):
        members = [block] if isinstance(block, (str, keras.Layer)) else list(block)
        for member in members:
            name = member if isinstance(member, str) else member.name
            if name not in known:
                raise ValueError(f"Model '{model.name}' has no such layer. Received: '{name}' in blocks")
            if name in numbers:
                raise ValueError(f"A layer belongs to one block. Received: '{name}' twice")
            numbers[name] = number
    return numbers


def _set(model: Model, numbers: dict[str, int]) -> None:
    model._partition.recompute = numbers
    # What is traced already was traced without.
    model._partition.functions.clear()
    model.train_function = None
