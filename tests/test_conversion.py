"""`ks.partition` keeps a model's class, methods, attributes and order of weights, and says how much memory it costs."""

import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import split
from keras import ops

import keras_spatial as ks

SHAPE = (13, 10, 2)
IMAGES = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype("float32")
LABELS = np.random.default_rng(1).normal(size=(2, 13, 10, 1)).astype("float32")


def body() -> tuple[keras.KerasTensor, keras.KerasTensor]:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x = keras.layers.BatchNormalization()(x)
    return inputs, keras.layers.Conv2D(1, 3, padding="same")(x)


class Plain(keras.Model):
    pass


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.abs(y - y_pred)) + ops.mean(ops.square(x))


class OwnStep(keras.Model):
    gain = 3.0

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.gain * ops.mean(ops.square(self(x, training=True) - y))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"own": loss}

    def test_step(self, data):
        x, y = data
        return {"own": ops.max(ops.abs(self(x, training=False) - y))}


class OwnMetrics(keras.Model):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "range": ops.max(y_pred) - ops.min(y_pred)}


class OwnPrediction(keras.Model):
    def predict_step(self, data):
        return ops.softmax(super().predict_step(data), axis=1)


class Subclassed(keras.Model):
    """A model whose layers are made in a different order than they are called."""

    def __init__(self):
        super().__init__()
        self.last = keras.layers.Conv2D(1, 3, padding="same")
        self.first = keras.layers.Conv2D(4, 3, padding="same", activation="silu")

    def call(self, x):
        return self.last(self.first(x))


def trained(model: keras.Model) -> tuple[dict, dict, np.ndarray, list[np.ndarray]]:
    """The history of an epoch, the evaluation, predictions and weights; the weights are restored."""
    before = model.get_weights()
    # Custom steps that do not update metrics must not be given any, in plain Keras too.
    metrics = None if isinstance(model, OwnStep) else ["mae"]
    model.compile(keras.optimizers.SGD(0.05), "mse", metrics=metrics)
    history = model.fit(IMAGES, LABELS, epochs=2, batch_size=1, shuffle=False, verbose=0).history
    evaluation = model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    predictions = model.predict(IMAGES, verbose=0)
    after = model.get_weights()
    model.set_weights(before)
    return history, evaluation, predictions, after


@pytest.mark.parametrize("cls", [Plain, OwnLoss, OwnStep, OwnMetrics, OwnPrediction])
def test_an_overridden_method_trains_evaluates_and_predicts_as_in_keras(cls):
    model = cls(*body())
    expected = trained(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spatial = ks.partition(model, split("2x2"))
        found = trained(spatial)
    assert isinstance(spatial, cls) and isinstance(spatial, ks.Model)
    for a, b in zip(found[:2], expected[:2], strict=True):
        assert a.keys() == b.keys()
        for name in b:
            np.testing.assert_allclose(a[name], b[name], rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-4, atol=1e-5)
    for a, b in zip(found[3], expected[3], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "method"), [(OwnLoss, "OwnLoss.compute_loss"), (OwnStep, "OwnStep.train_step, OwnStep.test_step")]
)
def test_an_overridden_method_is_named_once_with_what_it_costs(cls, method):
    spatial = ks.partition(cls(*body()), split("2x2"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trained(spatial)
    messages = [str(w.message) for w in caught if "not Keras's own" in str(w.message)]
    assert len(messages) == 1
    assert method in messages[0] and "MB for each case" in messages[0]


def test_attributes_weights_and_compilation_are_kept():
    model = OwnStep(*body())
    model.gain = 5.0
    model.note = "kept"
    model.compile("adam", "mse")
    spatial = ks.partition(model, split("2x2"))
    assert (spatial.gain, spatial.note, spatial.name) == (5.0, "kept", model.name)
    assert spatial.optimizer is model.optimizer
    assert [v.path for v in spatial.weights] == [v.path for v in model.weights]
    assert [a is b for a, b in zip(spatial.weights, model.weights, strict=True)]
    assert type(model) is OwnStep


def test_a_subclassed_model_keeps_its_class_and_its_order_of_weights():
    keras.utils.set_random_seed(0)
    model = Subclassed()
    spatial = ks.partition(model, split("2x2"), SHAPE)
    assert isinstance(spatial, Subclassed)
    assert [id(v) for v in spatial.weights] == [id(v) for v in model.weights]
    expected, found = trained(model), trained(spatial)
    np.testing.assert_allclose(found[0]["loss"], expected[0]["loss"], rtol=1e-5)


def test_variables_that_the_outputs_do_not_need_stay_weights():
    model = Plain(*body())
    model.unused = keras.layers.Dense(2)
    model.unused.build((None, 3))
    assert len(ks.partition(model, split("2x2")).weights) == len(model.weights)


def test_partitioning_again_changes_the_mesh():
    model = OwnStep(*body())
    spatial = ks.partition(ks.partition(model, split("2x2")), split("3x1"))
    assert spatial.distribution.shards("x") == 3
    assert isinstance(spatial, OwnStep)


class Doubled(keras.layers.Layer):
    """A layer in plain TensorFlow with a weight and a random state, without a rule."""

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x, training=False):
        if training:
            self.count.assign_add(1.0)
        return tf.concat([x * self.gain, tf.reverse(x, [1])], -1)


def with_layers_without_rules() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 10, 2))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    x = Doubled(name="doubled")(x)
    x = keras.layers.Lambda(lambda t: tf.nn.space_to_depth(t, 2), name="folded")(x)
    return keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(x))


def test_layers_without_rules_are_refused_together():
    with pytest.raises(ks.UnsupportedLayer, match=r"(?s)'doubled' \(Doubled\).*'folded' \(Lambda\).*replicate"):
        ks.partition(with_layers_without_rules(), split("2x2"))


@pytest.mark.parametrize("mesh", ["2x2", "3x1"])
def test_layers_without_rules_are_replicated_if_asked_for(mesh):
    model = with_layers_without_rules()
    images = np.random.default_rng(0).normal(size=(2, 12, 10, 2)).astype("float32")
    labels = np.zeros((2, 6, 5, 1), "float32")
    with pytest.warns(UserWarning, match=r"(?s)whole tensors on every device.*'doubled'.*MB"):
        spatial = ks.partition(model, split(mesh), unsupported="replicate")
    results = []
    for m in (model, spatial):
        before = m.get_weights()
        m.compile(keras.optimizers.SGD(0.1), "mse")
        m.fit(images, labels, epochs=2, verbose=0)
        results.append([*m.get_weights(), m.predict(images, verbose=0)])
        m.set_weights(before)
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_replicated_layers_are_planned():
    model = with_layers_without_rules()
    with pytest.raises(ks.UnsupportedLayer):
        ks.plan(model, split("2x2"))
    assert ks.plan(model, split("2x2"), unsupported="replicate").activations > 0


class Rearranged(keras.layers.Layer):
    """A layer that computes with the sizes of its input, including the batch size."""

    def call(self, x):
        batch, rows, columns, channels = ops.shape(x)
        return ops.reshape(x, (batch, rows, columns * channels, 1))


def test_sizes_of_the_input_are_numbers_inside_layers():
    inputs = keras.Input((12, 6, 2))
    x = keras.layers.Conv2D(2, 3, padding="same")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(Rearranged()(x)))
    images = np.random.default_rng(0).normal(size=(3, 12, 6, 2)).astype("float32")
    found = ks.partition(model, split("2x1")).predict(images, verbose=0)
    np.testing.assert_allclose(found, model.predict(images, verbose=0), rtol=1e-4, atol=1e-5)


def test_a_layer_called_with_its_own_mode_keeps_to_it():
    class Frozen(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = keras.layers.BatchNormalization()

        def call(self, x, training=None):
            return self.norm(x, training=False)

    inputs = keras.Input((12, 6, 2))
    model = keras.Model(inputs, Frozen()(inputs))
    images = np.random.default_rng(0).normal(3.0, size=(3, 12, 6, 2)).astype("float32")
    found = ks.partition(model, split("2x1"))(images, training=True)
    np.testing.assert_allclose(found, model(images, training=True), rtol=1e-5, atol=1e-5)


def test_a_model_made_of_a_partitioned_models_tensors_says_that_it_is_plain():
    base = ks.partition(Plain(*body()), split("2x2"))
    with pytest.warns(UserWarning, match=r"is not partitioned.*ks\.partition"):
        keras.Model(base.input, keras.layers.Conv2D(2, 1)(base.output))


def test_a_model_around_a_partitioned_model_runs_it_partitioned():
    base = Plain(*body())
    inputs = keras.Input(SHAPE)
    plain, around = (
        keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(m(inputs)))
        for m in (base, ks.partition(base, split("2x2")))
    )
    np.testing.assert_allclose(around(IMAGES), plain(IMAGES), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unsupported": "ignore"}, r"unsupported must be one of .*'ignore'"),
        ({"distribution": None}, "SpatialParallel"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ks.partition(Plain(*body()), **{"distribution": split("2x2"), **options})


def test_what_is_saved_loads_without_this_package_and_says_so_where_it_does_not(tmp_path):
    spatial = ks.partition(keras.Model(*body()), split("2x2"))
    spatial.compile("adam", "mse", metrics=["mae"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        spatial.save(tmp_path / "plain.keras")
    spatial.compile("adam", ks.losses.SoftDice(classes=(0,)), metrics=[ks.metrics.Dice(1)])
    with pytest.warns(UserWarning, match=r"names Dice, SoftDice of keras_spatial.*compile=False"):
        spatial.save(tmp_path / "own.keras")
    program = f"""
import keras, sys
keras.saving.load_model({str(tmp_path / "plain.keras")!r})
keras.saving.load_model({str(tmp_path / "own.keras")!r}, compile=False)
assert "keras_spatial" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
