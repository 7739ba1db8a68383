"""`fit` and similar methods on a mesh: the same trajectory, state, losses and metrics as in plain Keras."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from equality import assert_equal_to_keras, split

import keras_spatial as ks
from keras_spatial.saving import plain

MESHES = {
    "1x1": ("rows:1, columns:1", "x:rows, y:columns"),
    "2x1": ("rows:2, columns:1", "x:rows, y:columns"),
    "1x3": ("rows:1, columns:3", "x:rows, y:columns"),
    "2x2": ("rows:2, columns:2", "x:rows, y:columns"),
    "4x2": ("rows:4, columns:2", "x:rows, y:columns"),
    "batch": ("cores:2", "batch:cores"),
    "batch-2x1": ("cores:2, rows:2", "batch:cores, x:rows"),
}


def small_unet(**options) -> keras.Model:
    keras.utils.set_random_seed(3)
    options = {"filters": 3, "levels": 3, "convolutions": 1, "dropout": 0.0, **options}
    return ks.models.UNet3D((12, 8, 8, 1), classes=3, **options)


def cases(count: int = 4, shape=(12, 8, 8)) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(5)
    images = generator.normal(size=(count, *shape, 1)).astype("float32")
    labels = (images[..., 0] > 0.3).astype("uint8") + (images[..., 0] > 1.2).astype("uint8")
    return images, labels


def twins(mesh: str, **options) -> tuple[keras.Model, ks.Model]:
    """A plain model and one on a mesh, with the same initial weights but without shared variables."""
    model = small_unet(**options)
    copy = small_unet(**options)
    copy.set_weights(model.get_weights())
    return plain(model), ks.partition(copy, split(*MESHES[mesh]))


def compile_like(model: keras.Model, loss=None, metrics=None, optimizer=None, **kwargs) -> None:
    model.compile(
        optimizer=optimizer() if optimizer else keras.optimizers.SGD(0.05, momentum=0.9),
        loss=loss() if loss else ks.losses.DiceCrossentropy(class_weights=(1, 2, 4)),
        metrics=metrics() if metrics else None,
        jit_compile=False,
        **kwargs,
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mesh", MESHES)
def test_unet_outputs_gradients_and_state_equal_keras(mesh, training):
    assert_equal_to_keras(small_unet(), split(*MESHES[mesh]), batch=2, training=training)


# The other meshes have the outputs, gradients and state of a step above.
@pytest.mark.parametrize("mesh", ["1x1", "1x3", "2x2", "batch-2x1"])
def test_ten_training_steps_equal_keras(mesh):
    expected, actual = twins(mesh)
    images, labels = cases(3)
    histories = []
    for model in (expected, actual):
        compile_like(
            model,
            metrics=lambda: [
                ks.metrics.Dice(1, or_above=True),
                ks.metrics.Dice(2, over="all"),
                "accuracy",
                keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou"),
            ],
        )
        # Batches of 2 and 1: the last one is smaller, so with the batch sharded over two devices, one has nothing to
        # do.
        histories.append(model.fit(images, labels, batch_size=2, epochs=5, shuffle=False, verbose=0).history)
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-4, atol=1e-6, err_msg=name)
    for mine, theirs in zip(actual.variables, expected.variables, strict=True):
        scale = max(np.abs(theirs.numpy()).max(), 1e-3)
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-4 * scale, err_msg=theirs.path)
    measured = [m.evaluate(images, labels, batch_size=2, verbose=0, return_dict=True) for m in (expected, actual)]
    for name, value in measured[0].items():
        assert measured[1][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


POINTWISE_LOSSES = {
    "sparse": lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "one-hot": lambda: keras.losses.CategoricalCrossentropy(from_logits=True),
    "mse": lambda: keras.losses.MeanSquaredError(),
    "sum": lambda: keras.losses.MeanAbsoluteError(reduction="sum"),
    "mean-weighted": lambda: keras.losses.Huber(reduction="mean_with_sample_weight"),
    "focal": lambda: keras.losses.CategoricalFocalCrossentropy(from_logits=True),
    "crossentropy": lambda: ks.losses.Crossentropy(class_weights=(1, 8, 16)),
    "dice-case": lambda: ks.losses.SoftDice(over="case"),
    "dice-batch": lambda: ks.losses.SoftDice(over="batch", classes=(2,)),
    "dice-and-crossentropy": lambda: ks.losses.DiceCrossentropy(),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", POINTWISE_LOSSES)
def test_loss_equals_keras(loss, weighted):
    """Sizes that the mesh does not divide, with and without weights per voxel."""
    images, labels = cases(3, (7, 5, 3))
    if loss not in ("sparse", "crossentropy", "dice-case", "dice-batch", "dice-and-crossentropy"):
        labels = keras.utils.to_categorical(labels, 3)
    weights = np.random.default_rng(2).uniform(size=(3, 7, 5, 3)).astype("float32") if weighted else None
    results = []
    for mesh in (None, split("cores:2, rows:2, columns:2", "batch:cores, x:rows, y:columns")):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((7, 5, 3, 1))
        model = keras.Model(inputs, keras.layers.Conv3D(3, 3, padding="same")(inputs))
        model = model if mesh is None else ks.partition(model, mesh)
        compile_like(model, POINTWISE_LOSSES[loss], optimizer=lambda: keras.optimizers.SGD(1.0))
        before = model.get_weights()
        value = model.train_on_batch(images, labels, sample_weight=weights)
        results.append((value, [a - b for a, b in zip(model.get_weights(), before, strict=True)]))
    (expected, steps), (actual, own_steps) = results
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    for mine, theirs in zip(own_steps, steps, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-4 * np.abs(theirs).max())


def test_sample_and_class_weights_equal_keras():
    images = np.random.default_rng(0).normal(size=(4, 9, 8, 2)).astype("float32")
    labels = np.array([[0], [1], [1], [0]])
    losses = []
    for mesh in (None, split("2x2")):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((9, 8, 2))
        x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
        x = keras.layers.Dense(1, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
        model = keras.Model(inputs, x) if mesh is None else ks.partition(keras.Model(inputs, x), mesh)
        compile_like(model, lambda: "binary_crossentropy", metrics=lambda: ["accuracy", keras.metrics.AUC(name="auc")])
        history = model.fit(images, labels, batch_size=2, epochs=2, shuffle=False, class_weight={0: 1, 1: 5}, verbose=0)
        weighted = model.train_on_batch(images, labels, sample_weight=np.array([1.0, 0.0, 2.0, 1.0]))
        losses.append([*history.history["loss"], *history.history["accuracy"], *history.history["auc"], weighted[0]])
        keras.backend.clear_session()
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_regularizers_and_constraints_equal_keras():
    images, labels = cases(2, (7, 5, 3))
    weights = []
    for mesh in (None, split("2x2")):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((7, 5, 3, 1))
        layer = keras.layers.Conv3D(
            3, 3, padding="same", kernel_regularizer=keras.regularizers.L2(0.5), kernel_constraint="max_norm"
        )
        model = keras.Model(inputs, layer(inputs))
        model = model if mesh is None else ks.partition(model, mesh)
        compile_like(model)
        loss = model.train_on_batch(images, labels)
        weights.append([np.asarray(loss), *model.get_weights()])
    for mine, theirs in zip(weights[1], weights[0], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_as_keras_does(policy):
    """Half precision rounds in another order on a mesh; the loss stays within its resolution of Keras's."""
    images = np.random.default_rng(5).normal(size=(2, 16, 12, 1)).astype("float32")
    labels = (images[..., 0] > 0.3).astype("uint8")
    values = []
    keras.mixed_precision.set_global_policy(policy)
    try:
        for mesh in (None, split("2x2")):
            keras.utils.set_random_seed(3)
            # TensorFlow has no float16 pooling of volumes on CPUs, for plain Keras either.
            model = ks.models.UNet2D((16, 12, 1), classes=2, filters=4, levels=2, dropout=0.0)
            model = plain(model) if mesh is None else ks.partition(model, mesh)
            compile_like(model, loss=ks.losses.DiceCrossentropy)
            values.append([float(np.ravel(model.train_on_batch(images, labels))[0]) for _ in range(3)])
            assert model.predict(images, verbose=0).dtype == policy.removeprefix("mixed_")
            scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
            assert scaled == (policy == "mixed_float16")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    np.testing.assert_allclose(values[1], values[0], rtol=2e-2)
    assert values[1][-1] < values[1][0]


def test_gradient_accumulation_equals_keras():
    expected, actual = twins("2x2")
    images, labels = cases(4)
    for model in (expected, actual):
        optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
        model.compile(optimizer, ks.losses.DiceCrossentropy(), jit_compile=False)
        model.fit(images, labels, batch_size=1, epochs=2, shuffle=False, verbose=0)
    for ours, theirs in zip(actual.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * max(np.abs(theirs).max(), 1e-3))


def test_dropout_keeps_its_rate_and_repeats_with_its_seed():
    inputs = keras.Input((16, 16, 4))
    model = keras.Model(inputs, keras.layers.Dropout(0.3, seed=11)(inputs))
    ones = np.ones((2, 16, 16, 4), "float32")
    runs = []
    for _ in range(2):
        model.layers[1].seed_generator.state.assign([0, 11])
        spatial = ks.partition(model, split("2x2"))
        runs.append([spatial(ones, training=True).numpy() for _ in range(2)])
    first, second = runs[0]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(first, second)
    for quarter in (first[:, :8, :8], first[:, 8:, :8], first[:, :8, 8:], first[:, 8:, 8:]):
        assert (quarter == 0).mean() == pytest.approx(0.3, abs=0.07)
    assert not np.array_equal(first[:, :8] == 0, first[:, 8:] == 0)
    np.testing.assert_allclose(first[first != 0], 1 / 0.7, rtol=1e-6)


def test_spatial_dropout_drops_whole_channels_on_all_devices():
    inputs = keras.Input((8, 8, 16))
    spatial = ks.partition(keras.Model(inputs, keras.layers.SpatialDropout2D(0.5, seed=1)(inputs)), split("2x2"))
    output = spatial(np.ones((3, 8, 8, 16), "float32"), training=True).numpy()
    per_channel = output.reshape(3, 64, 16)
    assert (per_channel == per_channel[:, :1]).all()
    assert 0 < (per_channel[:, 0] == 0).mean() < 1


def test_gradient_tape_through_a_partitioned_model_equals_keras():
    expected, actual = twins("2x2")
    images, _ = cases(2)
    gradients = []
    for model in (expected, actual):
        x = tf.constant(images)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.square(model(x, training=True)))
        gradients.append(tape.gradient(loss, [x, *[v.value for v in model.trainable_variables]]))
    largest = max(float(tf.reduce_max(tf.abs(g))) for g in gradients[0])
    for mine, theirs in zip(gradients[1], gradients[0], strict=True):
        scale = max(float(tf.reduce_max(tf.abs(theirs))), 1e-3 * largest)
        np.testing.assert_allclose(mine, theirs, atol=1e-4 * scale)


def test_predict_and_last_small_batch_equal_keras():
    expected, actual = twins("batch-2x1")
    images, _ = cases(3)
    np.testing.assert_allclose(
        actual.predict(images, batch_size=2, verbose=0), expected.predict(images, batch_size=2, verbose=0), atol=1e-5
    )


def test_callbacks_steps_per_execution_and_validation(tmp_path):
    _, model = twins("2x1")
    compile_like(model, metrics=lambda: [ks.metrics.Dice(1)], steps_per_execution=2)
    images, labels = cases(4)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(1)
    history = model.fit(
        dataset,
        validation_data=dataset,
        epochs=2,
        verbose=0,
        callbacks=[
            keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="val_loss", save_best_only=True),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.EarlyStopping(patience=5),
        ],
    )
    assert set(history.history) == {"loss", "dice_1", "val_loss", "val_dice_1"}
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert int(model.optimizer.iterations.numpy()) == 8
    restored = keras.saving.load_model(tmp_path / "best.keras")
    assert type(restored).__module__.startswith("keras.")
    best = min(history.history["val_loss"])
    assert restored.evaluate(dataset, verbose=0)[0] == pytest.approx(best, rel=1e-4)


def test_a_saved_model_loads_and_trains_on_another_mesh(tmp_path):
    expected, actual = twins("2x2")
    images, labels = cases(2)
    for model in (expected, actual):
        compile_like(model, optimizer=lambda: keras.optimizers.Adam(1e-2))
        model.train_on_batch(images, labels)
    actual.save(tmp_path / "unet.keras")
    resumed = ks.load_model(tmp_path / "unet.keras", distribution=split("1x3"))
    assert int(resumed.optimizer.iterations.numpy()) == 1
    np.testing.assert_allclose(
        resumed.train_on_batch(images, labels), expected.train_on_batch(images, labels), rtol=1e-4
    )
    with split("4x2").scope():
        assert ks.load_model(tmp_path / "unet.keras").distribution.shards("x") == 4
    assert not isinstance(ks.load_model(tmp_path / "unet.keras"), ks.Model)


def test_model_made_in_a_scope_is_partitioned_and_outside_it_is_plain_keras():
    with split("2x2").scope():
        inside = small_unet()
    assert inside.distribution.layout == {"x": "rows", "y": "columns"}
    outside = small_unet()
    assert outside.distribution is None
    images, labels = cases(1)
    compile_like(outside)
    outside.fit(images, labels, verbose=0)


def test_subclassed_model_equals_keras():
    def network(base):
        class Network(base):
            def __init__(self):
                super().__init__()
                self.first = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")
                self.second = keras.layers.Conv2DTranspose(3, 3, strides=2, padding="same")

            def call(self, x):
                return self.second(self.first(x))

        return Network()

    images = np.random.default_rng(0).normal(size=(2, 13, 10, 2)).astype("float32")
    labels = np.random.default_rng(0).integers(0, 3, size=(2, 14, 10))
    expected = network(keras.Model)
    expected(images)
    with split("2x2").scope():
        actual = network(ks.Model)
    np.testing.assert_equal(actual(images).shape, (2, 14, 10, 3))
    for model in (expected, actual):
        compile_like(model)
    actual.set_weights(expected.get_weights())
    np.testing.assert_allclose(
        actual.fit(images, labels, epochs=3, verbose=0).history["loss"],
        expected.fit(images, labels, epochs=3, verbose=0).history["loss"],
        rtol=1e-5,
    )


def test_unet_of_the_paper_has_its_number_of_parameters():
    model = ks.models.UNet3D((32, 32, 32, 1), classes=3)
    trainable = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert trainable == 5_600_960


def test_a_subclassed_model_is_built_by_its_first_batch():
    class Small(ks.Model):
        def __init__(self):
            super().__init__()
            self.convolution = keras.layers.Conv2D(2, 3, padding="same")

        def call(self, x):
            return self.convolution(x) + 1.0

    image = np.random.default_rng(0).normal(size=(1, 9, 8, 1)).astype("float32")
    losses = []
    for scope in (split("2x2").scope, contextlib.nullcontext):
        keras.utils.set_random_seed(0)
        with scope():
            model = Small()
        model.compile("sgd", "mse")
        losses.append(model.fit(image, np.tanh(image), epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
