"""A model's outputs outside Keras's steps: whole and differentiable, or shard by shard."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf
from keras import tree

from keras_spatial.inputs import as_inputs
from keras_spatial.keras_private import unpack_x_y_sample_weight
from keras_spatial.network import signature_of
from keras_spatial.runtimes.blocks import Block
from keras_spatial.runtimes.functions import unoptimized
from keras_spatial.step import Step

if TYPE_CHECKING:
    from keras_spatial.model import Model


def call_whole(model: "Model", inputs: Any, training: bool) -> Any:
    """The whole outputs of a model; their gradients under a tape come from `mtf.gradients`.

    The losses that layers add are in `model.losses` afterwards, as in Keras.

    Args:
        model: a model with a mesh.
        inputs: tensors of static shape, in the structure of the model's inputs.
        training: whether layers run in training mode.
    """
    model._network.shard_lengths(inputs, training)
    if tf.executing_eagerly():
        model._partition.synchronize(model)
    functions = model._partition.functions
    if training not in functions:
        functions[training] = tf.function(lambda inputs: _differentiable_call(model, inputs, training), autograph=False)
    with unoptimized(), model._runtime.raising():
        outputs, losses = functions[training](inputs)
    model._partition.call_losses = list(losses)
    return outputs


def _differentiable_call(model: "Model", inputs: Any, training: bool) -> tuple[Any, list[tf.Tensor]]:
    variables = model.trainable_variables
    flat_inputs = tree.flatten(inputs)
    steps: list[Step] = []
    # Done here because it reads the variables, which `run` may receive only as arguments.
    model._network.shard_lengths(inputs, training)

    @tf.custom_gradient
    def run(*arguments):
        values, weights = arguments[: len(flat_inputs)], arguments[len(flat_inputs) :]
        step = Step(
            model._network,
            tree.pack_sequence_as(inputs, list(values)),
            training=training,
            differentiable_inputs=True,
            weight_values={id(v): w for v, w in zip(variables, weights, strict=True)},
            recompute=model._partition.recompute,
        )
        steps.append(step)
        step.lower()
        results = [*step.flat_outputs, *step.trace.losses]

        def gradient(*dys):
            step.backward(results, dys, variables)
            step.lower()
            return [*step.input_gradients(), *step.gradients(variables)]

        return [step.whole(x) for x in results], gradient

    results: Any = run(*flat_inputs, *[tf.convert_to_tensor(v.value) for v in variables])
    steps[0].apply_updates()
    count = len(steps[0].flat_outputs)
    return tree.pack_sequence_as(steps[0].outputs, results[:count]), list(results[count:])


def predicted_blocks(model: "Model", batches: Iterable) -> Iterator[Any]:
    """Yield, for each batch, the shards of the outputs on this process's devices: lists of `Block`s in their structure.

    Args:
        model: a model with a mesh.
        batches: batches in the form that Keras gives to a `predict_step`.
    """
    structures: dict[str, Any] = {}
    places: dict[str, list] = {}

    def step(inputs):
        forward = model.step(inputs, training=False)
        forward.lower()
        found = [forward.local_blocks(output) for output in forward.flat_outputs]
        structures[signature_of(inputs)] = tree.map_structure(lambda _: 0, forward.outputs)
        places[signature_of(inputs)] = [held for held, _ in found]
        return [values for _, values in found]

    compiled = model._runtime.compiled_blocks(step)
    model._partition.begin("predict")
    for batch in batches:
        model._partition.prepare(model, batch, "predict")
        inputs = as_inputs(model, unpack_x_y_sample_weight(batch)[0])
        with unoptimized(), model._runtime.raising():
            outputs = compiled(inputs)
            # Taken before the next call, which may free them.
            blocks = [
                [
                    Block(index, read)
                    for (_, index), read in zip(held, model._runtime.handed_out(values, held), strict=True)
                ]
                for held, values in zip(places[signature_of(inputs)], outputs, strict=True)
            ]
        yield tree.pack_sequence_as(structures[signature_of(inputs)], blocks)
