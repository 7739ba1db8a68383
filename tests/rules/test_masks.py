"""Keras's masks: results are equal if a mask ends without effect; a layer that would use one is refused by name."""

import keras
import numpy as np
import pytest
from equality import assert_equal_to_keras, split
from keras import layers, ops

import keras_spatial as ks

SHAPE = (8, 3)
MESH = "2"


def images(batch: int = 4) -> np.ndarray:
    """Sequences whose last steps are zero throughout, so that `Masking` masks them."""
    x = np.random.default_rng(0).normal(size=(batch, *SHAPE)).astype("float32")
    x[:, 5:] = 0.0
    x[0, 3:] = 0.0
    return x


def model_of(call, masking=lambda: layers.Masking(name="masking")) -> keras.Model:
    keras.utils.set_random_seed(4)
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, call(masking()(inputs)))


class Own(layers.Layer):
    """A layer that makes its own mask from inputs that Keras casts first."""

    def call(self, x):
        return 2.0 * x

    def compute_mask(self, x, previous=None):
        return ops.any(ops.greater(x, 0.0), axis=-1)


class SetsMask(layers.ReversibleEmbedding):
    """A layer that sets its mask in `call`."""


class TakesMask(layers.Layer):
    def __init__(self, passes_on: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = passes_on

    def call(self, x, mask=None):
        return x if mask is None else x * ops.cast(mask[..., None], x.dtype)


def nested(*inner):
    inputs = keras.Input(SHAPE)
    x = inputs
    for layer in inner:
        x = layer(x)
    return keras.Model(inputs, x, name="nested")


TO_THE_OUTPUT = {
    "masking": lambda x: x,
    "dense": lambda x: layers.Dense(1)(x),
    "chain": lambda x: layers.Dropout(0.1)(layers.LayerNormalization()(layers.Dense(2, activation="relu")(x))),
    "add": lambda x: layers.Add()([x, layers.Dense(3)(x)]),
    "concatenate": lambda x: layers.Concatenate()([x, ops.relu(x)]),
    "second output": lambda x: [layers.Conv1D(1, 1)(x), layers.Dense(2)(x)],
    "nested": lambda x: nested(layers.Dense(1))(x),
    "sequential": lambda x: keras.Sequential([layers.Dense(1), layers.ReLU()])(x),
    "half": lambda x: layers.Dense(1, dtype="mixed_float16")(x),
}


@pytest.mark.parametrize("unsupported", ["raise", "replicate"])
@pytest.mark.parametrize("name", TO_THE_OUTPUT)
def test_a_mask_that_reaches_an_output_is_refused(name, unsupported):
    with pytest.raises(ks.UnsupportedLayer, match=r"'masking' \(Masking\): its mask reaches an output"):
        ks.partition(model_of(TO_THE_OUTPUT[name]), split(MESH), unsupported=unsupported)


def _embedded(layer):
    inputs = keras.Input((8,), dtype="int32")
    return keras.Model(inputs, layers.Dense(1)(layer(inputs)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: _embedded(layers.Embedding(9, 4, mask_zero=True, name="source")),
        lambda: _embedded(SetsMask(9, 4, mask_zero=True, name="source")),
        lambda: model_of(layers.Dense(1), lambda: Own(name="source")),
        lambda: model_of(layers.Dense(1), lambda: nested(Own(name="source"))),
        lambda: model_of(lambda x: TakesMask(True, name="source")(x, mask=ops.any(x > 0, axis=-1)), layers.ReLU),
    ],
    ids=["embedding", "set-in-call", "own-compute-mask", "leaves-a-nested-model", "given"],
)
def test_every_source_of_masks_is_named(make):
    with pytest.raises(ks.UnsupportedLayer, match=r"'source'"):
        ks.partition(make(), split(MESH))


USERS = {
    "BatchNormalization": lambda x: layers.BatchNormalization()(x),
    "GlobalAveragePooling1D": lambda x: layers.GlobalAveragePooling1D()(x),
    "MultiHeadAttention": lambda x: layers.Conv1D(1, 1)(layers.MultiHeadAttention(2, 4)(x, x)),
    "Softmax": lambda x: layers.Conv1D(1, 1)(layers.Softmax(axis=1)(x)),
    "Multiply": lambda x: layers.Conv1D(1, 1)(layers.Multiply()([x, ops.sigmoid(x)])),
    "Maximum": lambda x: layers.Conv1D(1, 1)(layers.Maximum()([x, layers.Dense(3)(x)])),
    "Attention": lambda x: layers.Conv1D(1, 1)(layers.Attention()([x, x])),
    "TimeDistributed": lambda x: layers.Conv1D(1, 1)(layers.TimeDistributed(layers.Dense(2))(x)),
}


@pytest.mark.parametrize("name", USERS)
def test_a_layer_that_would_use_a_mask_is_refused_by_name(name):
    with pytest.raises(ks.UnsupportedLayer, match=rf"\({name}\): .*mask"):
        ks.partition(model_of(USERS[name]), split(MESH))


def _results(model: keras.Model) -> list[float]:
    x = images()
    y = np.random.default_rng(1).normal(size=(4, *model.output_shape[1:]))
    model.compile(keras.optimizers.SGD(0.05), loss="mse", metrics=["mae"])
    history = model.fit(x, y, epochs=2, shuffle=False, verbose=0).history
    return [*history["loss"], *history["mae"], *model.evaluate(x, y, verbose=0)]


ENDS = {
    "convolution": lambda x: layers.Conv1D(2, 3, padding="same")(layers.Dense(2)(x)),
    "recurrent inside": lambda x: layers.Conv1D(2, 3, padding="same")(x),
    "operation": lambda x: layers.Dense(2)(x) * 1.0,
    "one of two": lambda x: layers.Add()([x, layers.Conv1D(3, 1)(x)]),
    "flatten": lambda x: layers.Dense(2)(layers.Flatten()(x)),
    "given to a layer of its own": lambda x: layers.Conv1D(1, 1)(TakesMask()(x, mask=ops.any(x > 0, axis=-1))),
}


@pytest.mark.parametrize("name", ENDS)
def test_masks_that_end_leave_a_model_equal(name):
    model = model_of(ENDS[name])
    weights = model.get_weights()
    expected = _results(model)
    model.set_weights(weights)
    np.testing.assert_allclose(_results(ks.partition(model, split(MESH))), expected, rtol=1e-4)


INSIDE = {
    "recurrent": lambda: nested(layers.Masking(), layers.LSTM(4)),
    "pooled": lambda: nested(layers.Masking(), layers.GlobalAveragePooling1D()),
    "attending": lambda: keras.Sequential([layers.Masking(), layers.BatchNormalization(), layers.Conv1D(2, 3)]),
}


@pytest.mark.parametrize("name", INSIDE)
def test_masks_within_a_replicated_model_are_used(name):
    keras.utils.set_random_seed(4)
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, layers.Dense(1)(INSIDE[name]()(inputs)))
    weights = model.get_weights()
    expected = _results(model)
    model.set_weights(weights)
    with pytest.warns(UserWarning, match="layers inside it make masks"):
        spatial = ks.partition(model, split(MESH), unsupported="replicate")
    np.testing.assert_allclose(_results(spatial), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: nested(layers.Masking(), layers.LSTM(4, return_sequences=True))(x),
        lambda x: layers.LSTM(4)(layers.Dense(3)(layers.Masking()(x))),
        lambda x: nested(layers.LSTM(4))(layers.Masking()(x)),
        lambda x: layers.MultiHeadAttention(2, 4)(layers.Masking()(x), x),
    ],
    ids=["leaves", "recurrent", "enters", "attention"],
)
def test_masks_that_leave_or_enter_what_is_replicated_are_refused(call):
    inputs = keras.Input(SHAPE)
    with pytest.raises(ks.UnsupportedLayer, match="mask"):
        ks.partition(keras.Model(inputs, call(inputs)), split(MESH), unsupported="replicate")


def test_a_mask_that_batch_normalization_is_given_is_refused_and_used_where_it_is_replicated():
    keras.utils.set_random_seed(4)
    inputs = keras.Input(SHAPE)
    y = layers.BatchNormalization(name="norm")(inputs, mask=ops.any(inputs > 0, axis=-1))
    model = keras.Model(inputs, layers.Conv1D(2, 3)(y))
    with pytest.raises(ks.UnsupportedLayer, match=r"'norm'.*mask"):
        ks.partition(model, split(MESH))
    weights = model.get_weights()
    expected = _results(model)
    model.set_weights(weights)
    with pytest.warns(UserWarning, match="whole tensors"):
        spatial = ks.partition(model, split(MESH), unsupported="replicate")
    np.testing.assert_allclose(_results(spatial), expected, rtol=1e-4)


def test_a_subclassed_model_with_masks_is_refused():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.masking, self.dense = layers.Masking(name="masking"), layers.Dense(1)

        def call(self, x):
            return self.dense(self.masking(x))

    with pytest.raises(ks.UnsupportedLayer, match="its mask reaches an output"):
        ks.partition(Subclassed(), split(MESH), input_shape=SHAPE)


def test_outputs_of_masked_rows_equal_keras():
    model = model_of(ENDS["convolution"])
    assert_equal_to_keras(model, split(MESH), inputs=[keras.ops.convert_to_tensor(images())], training=True)
