"""Training and evaluation never hold an image-sized activation on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import split

import keras_spatial as ks

SHAPE = (64, 64, 16)
VOXELS = int(np.prod(SHAPE))


def largest_tensors(function, data) -> dict[str, int]:
    """The number of elements of a step's largest tensors, by operation, in its graph and all called functions."""
    graph = function.get_concrete_function(data).graph
    definition = graph.as_graph_def(add_shapes=True)
    nodes = [(n.name, n) for n in definition.node]
    nodes += [(f"{f.signature.name}/{n.name}", n) for f in definition.library.function for n in f.node_def]
    sizes = {}
    for name, node in nodes:
        shapes = node.attr["_output_shapes"].list.shape
        sizes[name] = max(
            (int(np.prod([d.size for d in s.dim])) for s in shapes if not s.unknown_rank and s.dim), default=0
        )
    return sizes


@pytest.mark.parametrize("step", ["train_step", "test_step"])
def test_no_tensor_of_a_step_has_as_many_elements_as_the_image_has_voxels(step):
    """The network has 4 to 8 channels everywhere, so that a gathered activation of any level but the deepest would
    stand out; the input and the labels themselves (one value per voxel) are the largest tensors."""
    model = ks.models.UNet3D((*SHAPE, 1), classes=4, filters=4, levels=2, convolutions=1, dropout=0.0)
    model = ks.partition(model, split("4x4"))
    model.compile(optimizer="adam", loss=ks.losses.DiceCrossentropy(), metrics=[ks.metrics.Dice(1), "accuracy"])
    data = (tf.zeros((1, *SHAPE, 1)), tf.zeros((1, *SHAPE), tf.int32))
    model.evaluate(*data, verbose=0)
    sizes = largest_tensors(tf.function(getattr(model, step), autograph=False), data)
    assert max(sizes.values()) == VOXELS
    activations = {name: size for name, size in sizes.items() if size > VOXELS}
    assert not activations


def test_augmentation_of_a_volume_holds_no_whole_image():
    inputs = keras.Input((*SHAPE, 1))
    x = keras.layers.Conv3D(4, 3, padding="same")(inputs)
    for layer in (
        ks.layers.RandomFlip3D(),
        ks.layers.RandomContrast3D(0.2, (-9, 9)),
        ks.layers.RandomRotation3D(0.1, "xyz"),
    ):
        x = layer(x)
    model = ks.partition(keras.Model(inputs, x), split("4x4"))
    model.compile("sgd", "mse")
    data = (tf.zeros((1, *SHAPE, 1)), tf.zeros((1, *SHAPE, 1)))
    model.evaluate(*data, verbose=0)
    sizes = largest_tensors(tf.function(model.train_step, autograph=False), data)
    assert max(sizes.values()) == VOXELS


def test_predicting_blocks_holds_no_whole_output():
    model = ks.models.UNet3D((*SHAPE, 1), classes=4, filters=4, levels=2, convolutions=1, dropout=0.0)
    model = ks.partition(model, split("4x4"))
    steps = []
    make = tf.function

    def recorded(function=None, **options):
        made = make(function, **options)
        if getattr(function, "__name__", "") == "step":
            steps.append(made)
        return made

    images = tf.zeros((1, *SHAPE, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "function", recorded)
        blocks = next(model.predict_blocks(images))
    assert len(blocks) == 16 and {b.values.size for b in blocks} == {4 * VOXELS // 16}
    assert max(largest_tensors(steps[0], images).values()) == VOXELS  # The image that was passed.


def test_the_same_step_of_plain_keras_does_hold_them():
    """This shows that the test above can fail."""
    model = ks.models.UNet3D((*SHAPE, 1), classes=4, filters=4, levels=2, convolutions=1, dropout=0.0)
    model.compile(optimizer="adam", loss=ks.losses.DiceCrossentropy())
    data = (tf.zeros((1, *SHAPE, 1)), tf.zeros((1, *SHAPE), tf.int32))
    model.evaluate(*data, verbose=0)
    sizes = largest_tensors(tf.function(keras.Model.train_step.__get__(model), autograph=False), data)
    assert max(sizes.values()) >= 4 * VOXELS
