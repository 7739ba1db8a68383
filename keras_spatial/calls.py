"""A model's outputs outside Keras's loops: whole and differentiable, or block by block."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from keras import tree
from keras.src.trainers.data_adapters.data_adapter_utils import unpack_x_y_sample_weight

from keras_spatial.mtf.shared import unoptimized
from keras_spatial.runtimes.blocks import Block
from keras_spatial.step import Forward, Lowered, fuse_for_outputs, gradients

if TYPE_CHECKING:
    from keras_spatial.model import Model


def differentiable_call(model: "Model", inputs: Any, training: bool) -> Any:
    """The whole outputs, whose gradients come from `mtf.gradients`.

    Args:
        model: with a mesh.
        inputs: tensors of static shape, in the structure of the model's inputs.
        training: whether layers run in training mode.
    """
    variables = model.trainable_variables
    flat_inputs = tree.flatten(inputs)
    forwards: list[Forward] = []
    model._plan(inputs, training)  # It reads the variables, which `run` must take as arguments alone.

    @tf.custom_gradient
    def run(*arguments):
        values, weights = arguments[: len(flat_inputs)], arguments[len(flat_inputs) :]
        forward = model._forward(
            tree.pack_sequence_as(inputs, list(values)),
            training=training,
            differentiable_inputs=True,
            weight_values={id(v): w for v, w in zip(variables, weights, strict=True)},
        )
        forwards.append(forward)
        fuse_for_outputs(forward)
        lowered = Lowered(forward.trace)
        lowered.apply_updates()

        def gradient(*dys):
            sources = tree.flatten(forward.inputs)
            of_weights, of_inputs = gradients(
                forward.trace, forward.flat_outputs, dys, variables, sources, model._partition.recompute
            )
            lowered.lower_rest()
            shapes = [x.shape for x in sources] + [v.shape for v in variables]
            return [
                None if g is None else lowered.export(g, shape)
                for g, shape in zip(of_inputs + of_weights, shapes, strict=True)
            ]

        return [lowered.whole(output) for output in forward.flat_outputs], gradient

    outputs = run(*flat_inputs, *[tf.convert_to_tensor(v.value) for v in variables])
    return tree.pack_sequence_as(forwards[0].outputs, outputs)


def predicted_blocks(model: "Model", batches: Iterable) -> Iterator[Any]:
    """For each batch what the devices of this process hold of the outputs: lists of `Block`s, in their structure.

    Args:
        model: with a mesh of CPUs or GPUs.
        batches: as Keras gives them to a `predict_step`.
    """
    structures: dict[tuple, Any] = {}
    places: dict[tuple, list] = {}

    def step(inputs):
        forward = model._forward(inputs, training=False)
        fuse_for_outputs(forward)
        lowered = Lowered(forward.trace)
        found = [lowered.own_blocks(output) for output in forward.flat_outputs]
        structures[shapes_of(inputs)] = tree.map_structure(lambda _: 0, forward.outputs)
        places[shapes_of(inputs)] = [indices for indices, _ in found]
        return [values for _, values in found]

    step = tf.function(step, autograph=False)
    for batch in batches:
        model._prepare(batch, training=False)
        inputs = model._as_inputs(unpack_x_y_sample_weight(batch)[0])
        with unoptimized():
            outputs = step(inputs)
        blocks = [
            [Block(index, value.numpy()) for index, value in zip(indices, values, strict=True)]
            for indices, values in zip(places[shapes_of(inputs)], outputs, strict=True)
        ]
        yield tree.pack_sequence_as(structures[shapes_of(inputs)], blocks)


def shapes_of(inputs: Any) -> tuple:
    return tuple(tuple(x.shape) for x in tree.flatten(inputs))
