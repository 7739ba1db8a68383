"""Recomputation: the same numbers, with less kept for the backward pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import split

import keras_spatial as ks
from keras_spatial.planning import NothingFits

BLOCKS = [
    [f"{side}0_{kind}{number}" for number in (1, 2) for kind in ("conv", "norm", "relu")] for side in ("down", "up")
]


def network(size: int = 12, dropout: float = 0.0) -> ks.Model:
    keras.utils.set_random_seed(0)
    with split("2x2").scope():
        return ks.models.UNet3D((size, size, size, 1), classes=3, filters=2, levels=2, dropout=dropout)


def trained(model: ks.Model, steps: int = 3) -> list[np.ndarray]:
    """The losses of some steps, and the weights and moving averages after them."""
    model.compile("adam", ks.losses.DiceCrossentropy())
    generator = np.random.default_rng(0)
    size = model.input_shape[1]
    image = generator.normal(size=(1, size, size, size, 1)).astype("float32")
    label = generator.integers(0, 3, size=(1, size, size, size))
    losses = [np.asarray(model.train_on_batch(image, label)) for _ in range(steps)]
    return [*losses, *model.get_weights()]


@pytest.mark.parametrize("size", [12, 10])
def test_training_is_the_same(size):
    """Random numbers stay the same too: dropout drops the same voxels when it is computed again."""
    expected = trained(network(size, dropout=0.3))
    again = network(size, dropout=0.3)
    ks.recompute(again, BLOCKS)
    for a, b in zip(trained(again), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_call_are_the_same():
    model = network()
    image = tf.constant(np.random.default_rng(0).normal(size=(1, 12, 12, 12, 1)), tf.float32)

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(image, training=True) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    expected = gradients()
    ks.recompute(model, BLOCKS)
    for a, b in zip(gradients(), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.abs(b).max()))


def test_less_is_held_and_more_is_computed():
    model = network(32)
    before = ks.plan(model, model.distribution)
    ks.recompute(model, BLOCKS[:1])
    after = ks.plan(model, model.distribution)
    # Only the last of the segment's four results, which is a skip connection, is kept.
    result = 16 * 16 * 32 * 2 * 4
    assert before.activations - after.activations >= 3 * result
    assert before.flops < after.flops < 1.4 * before.flops


def test_layers_are_chosen_to_fit_a_budget():
    model = network(24)
    needed = ks.plan(model, model.distribution).memory
    assert ks.recompute(model, memory=needed).flops == ks.plan(model, model.distribution).flops
    planned = ks.recompute(model, memory=int(0.85 * needed))
    assert planned.memory <= 0.85 * needed
    assert planned == ks.plan(model, model.distribution)


def test_a_budget_that_no_choice_fits_leaves_the_model_as_it_was():
    model = network(12)
    ks.recompute(model, BLOCKS)
    before = ks.plan(model, model.distribution)
    with pytest.raises(NothingFits, match="Computing all layers again is not enough"):
        ks.recompute(model, memory=1000)
    assert ks.plan(model, model.distribution) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": [["down0_conv1"], ["down0_conv1"]]}, "one segment"),
        ({"blocks": ["nothing"]}, "no such layer"),
        ({}, "either `blocks` or `memory`"),
        ({"blocks": ["down0_conv1"], "memory": 10}, "either `blocks` or `memory`"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.recompute(network(), **arguments)


def test_a_plain_model_is_refused():
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(1, 3)(inputs))
    with pytest.raises(ValueError, match="must be partitioned"):
        ks.recompute(model, [])


def test_layers_are_not_computed_again_before_the_backward_pass():
    """Operations that read only the image could run at once, and no memory would be saved."""
    model = network(8)
    ks.recompute(model, BLOCKS)
    model.compile("sgd", ks.losses.DiceCrossentropy())
    data = (tf.zeros([1, 8, 8, 8, 1]), tf.zeros([1, 8, 8, 8], tf.int32))
    graph = tf.function(lambda *d: model.train_step(d), autograph=False).get_concrete_function(*data).graph
    for name in ("down0_conv1_1/", "up0_conv1_1/"):
        pending = [o for o in graph.get_operations() if o.name.startswith(name)]
        assert pending
        before: set[str] = set()
        while pending:
            operation = pending.pop()
            if operation.name not in before:
                before.add(operation.name)
                pending += [*(t.op for t in operation.inputs), *operation.control_inputs]
        assert any(n.startswith("dice_crossentropy") for n in before)
