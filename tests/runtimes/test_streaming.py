"""Positions that share a device have the same results as separate devices, to the last bit, with the memory of a
few.
"""

import gc
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_spatial as ks
from keras_spatial.runtimes.nodes import Total
from keras_spatial.runtimes.program import Program

SHAPE = (20, 14, 18, 1)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((3, *SHAPE), "float32")
LABELS = RANDOM.integers(0, 3, (3, *SHAPE[:-1]), "int32")
MESHES = [
    ("rows:2, columns:2", "x:rows, y:columns"),
    ("slices:2, cores:3", "batch:cores, z:slices"),
]


FEW = IMAGES[:, :8, :6, :4]


def distributions(shape, layout, folder):
    """A mesh with as many devices as positions; then one device, with shards in host memory and in files."""
    yield ks.SpatialParallel(ks.device_mesh(shape), layout)
    yield ks.SpatialParallel(ks.device_mesh(shape, devices=["cpu:0"]), layout)
    yield ks.SpatialParallel(ks.device_mesh(shape, devices=["cpu:0"]), layout, offload=folder)


def unet(distribution, **options):
    keras.utils.set_random_seed(3)
    with distribution.scope():
        model = ks.models.UNet3D(SHAPE, classes=3, filters=4, levels=2, convolutions=1, **options)
        model.compile(keras.optimizers.Adam(1e-2), ks.losses.DiceCrossentropy(), metrics=[ks.metrics.Dice(class_id=1)])
    return model


def small(distribution):
    keras.utils.set_random_seed(3)
    with distribution.scope():
        inputs = keras.Input(SHAPE)
        return ks.Model(inputs, ks.layers.Conv3D(3, 3, padding="same")(inputs))


def equal(found, expected):
    found, expected = keras.tree.flatten(found), keras.tree.flatten(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("shape", "layout"), MESHES)
def test_training_evaluation_and_prediction_are_equal_to_the_last_bit(shape, layout, tmp_path):
    results = []
    for distribution in distributions(shape, layout, tmp_path):
        model = unet(distribution)
        data = {"validation_data": (IMAGES, LABELS), "batch_size": 3, "verbose": 0}
        history = model.fit(IMAGES, LABELS, epochs=2, **data).history
        evaluated = model.evaluate(IMAGES, LABELS, batch_size=2, verbose=0)
        results.append([history, evaluated, model.predict(IMAGES, batch_size=2, verbose=0), model.get_weights()])
    equal(results[1], results[0])
    equal(results[2], results[0])
    assert list(tmp_path.iterdir()) == []


def test_padding_that_becomes_the_windows_own_is_equal_to_the_last_bit(tmp_path):
    results = []
    for distribution in distributions("rows:2, columns:2", "x:rows, y:columns", tmp_path):
        keras.utils.set_random_seed(3)
        with distribution.scope():
            x = inputs = keras.Input(SHAPE)
            x = ks.layers.Conv3D(2, 3, strides=2)(ks.layers.ZeroPadding3D(1)(x))
            x = ks.layers.MaxPooling3D(3, strides=1)(ks.layers.ZeroPadding3D(1)(x))
            model = ks.Model(inputs, ks.layers.GlobalAveragePooling3D()(x))
            model.compile("sgd", "mse")
        losses = [float(np.ravel(model.train_on_batch(IMAGES, np.ones((len(IMAGES), 2))))[0]) for _ in range(2)]
        results.append([losses, model.get_weights()])
    equal(results[1], results[0])
    equal(results[2], results[0])


def test_gradients_of_calls_and_recomputation_are_equal_to_the_last_bit(tmp_path):
    results = []
    for distribution in distributions(*MESHES[0], tmp_path):
        model = unet(distribution)
        ks.recompute(model, [["down0_conv1", "down0_norm1"], ["up0_conv1", "up0_norm1"]])
        with tf.GradientTape() as tape:
            x = tf.constant(IMAGES)
            tape.watch(x)
            loss = tf.reduce_mean(model(x, training=True) ** 2)
        results.append(tape.gradient(loss, [x, *model.trainable_variables]))
        model.fit(IMAGES, LABELS, batch_size=3, verbose=0)
        results[-1].append(model.get_weights())
    equal(results[1], results[0])
    equal(results[2], results[0])


def test_random_layers_draw_the_same_numbers(tmp_path):
    results = []
    for distribution in distributions(*MESHES[0], tmp_path):
        keras.utils.set_random_seed(5)
        with distribution.scope():
            inputs = keras.Input(SHAPE)
            x = ks.layers.Conv3D(4, 3, padding="same", activation="silu")(inputs)
            outputs = ks.layers.Conv3D(3, 1)(ks.layers.Dropout(0.5, seed=1)(x))
            model = ks.Model(inputs, outputs)
        results.append([model(IMAGES, training=True) for _ in range(2)])
        assert np.any(results[-1][0] != results[-1][1])
    equal(results[1], results[0])
    equal(results[2], results[0])


def with_functions(activation, loss):
    """Make a small model with functions of a user, partitioned over a mesh."""
    inputs = keras.Input(FEW.shape[1:])
    x = keras.layers.Conv3D(3, 3, padding="same", activation=activation)(inputs)
    plain = keras.Model(inputs, keras.layers.Conv3D(1, 1)(x))
    weights = plain.get_weights()

    def make(distribution):
        plain.set_weights(weights)
        model = ks.partition(plain, distribution)
        model.compile("sgd", loss)
        return model

    return make


def test_variables_that_a_function_finds_around_it_are_read_in_every_step(tmp_path):
    factor, table = keras.Variable(0.5), keras.Variable([[0.5, -1.0, 2.0], [0.0, 3.0, 1.0]])

    def activation(x):
        return x * factor + keras.ops.take(table, 1, axis=0)

    make = with_functions(activation, lambda y, p: factor * keras.ops.square(y - p))
    results = []
    for distribution in distributions(*MESHES[0], tmp_path):
        factor.assign(0.5)
        model = make(distribution)
        assert ks.plan(model, distribution, 1).activations
        predicted = [model.predict(FEW, verbose=0)]
        evaluated = [model.evaluate(FEW, FEW, batch_size=3, verbose=0)]
        factor.assign(0.7)
        predicted.append(model.predict(FEW, verbose=0))
        evaluated.append(model.evaluate(FEW, FEW, batch_size=3, verbose=0))
        model.fit(FEW, FEW, batch_size=3, verbose=0)
        results.append((predicted, [*evaluated, *model.get_weights()]))
    assert results[0][1][0] != results[0][1][1]
    for predicted, sums in results[1:]:
        equal(predicted, results[0][0])
        # TensorFlow makes sums over voxels in several threads: two runs of one step differ in the last bit.
        for a, b in zip(sums, results[0][1], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


class OnShards(keras.layers.Layer):
    """A layer whose function runs unchanged on shards."""

    def call(self, x):
        return x


@ks.register_lowering(OnShards)
def lower_on_shards(layer, trace, x):
    return trace.pointwise(layer.function, [x], name=layer.name)


def changes_a_variable():
    count = keras.Variable(0.0)
    return lambda x: x + count.assign(count + 1.0)


def looks_up_in_a_table():
    entries = tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1]), tf.constant([2.0, 3.0]))
    table = tf.lookup.StaticHashTable(entries, 0.0)
    return lambda x: x + table.lookup(tf.cast(tf.convert_to_tensor(x), tf.int32))


@pytest.mark.parametrize(
    ("make_function", "named"),
    [(changes_a_variable, "Received: AssignVariableOp"), (looks_up_in_a_table, "Received: LookupTableFindV2")],
)
def test_a_function_that_does_more_than_read_variables_is_refused(make_function, named, tmp_path):
    """The function is run on shards by a user's own rule; other functions are refused earlier."""
    _, distribution, _ = distributions(*MESHES[0], tmp_path)
    inputs = keras.Input(FEW.shape[1:])
    layer = OnShards()
    layer.function = make_function()
    model = ks.partition(keras.Model(inputs, keras.layers.Conv3D(1, 1)(layer(inputs))), distribution)
    with pytest.raises(ValueError, match=named):
        model.predict(FEW, verbose=0)


def test_a_keras_model_is_partitioned_and_two_devices_share_its_positions():
    inputs = keras.Input((30, 22, 3))
    x = keras.layers.SeparableConv2D(6, 3, strides=2, padding="same", activation="silu")(inputs)
    x = keras.layers.BatchNormalization()(keras.layers.MaxPooling2D(3, 1)(x))
    plain = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)))
    images = RANDOM.random((1, 30, 22, 3), "float32")
    layout = "x:rows, y:columns"
    placed = ks.partition(plain, ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), layout))
    shared = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2", devices=["cpu:0", "cpu:1"]), layout)
    equal(ks.partition(plain, shared).predict(images, verbose=0), placed.predict(images, verbose=0))


def test_blocks_are_read_from_where_they_are_kept_also_when_other_batches_have_followed(tmp_path):
    *_, distribution = distributions(*MESHES[0], tmp_path)
    model = unet(distribution)
    expected = model.predict(IMAGES, batch_size=1, verbose=0)
    for case, blocks in enumerate(list(model.predict_blocks(IMAGES, batch_size=1))):
        assert len(blocks) == 4
        for block in blocks:
            np.testing.assert_array_equal(block.values, expected[case : case + 1][block.index])


def test_images_come_block_by_block(tmp_path):
    *_, distribution = distributions(*MESHES[0], tmp_path)

    def cut(array, counts):
        halves = [half for rows in np.split(array, 2, 1) for half in np.split(rows, 2, 2)]
        return ks.LocalBlocks(tuple(tf.constant(half) for half in halves), counts)

    # Block-wise data are not padded: shards of ten by seven do not suit two levels.
    images, labels = IMAGES[:1, :, :12], LABELS[:1, :, :12]
    results = []
    for x, y in ((images, labels), (cut(images, (1, 2, 2, 1, 1)), cut(labels, (1, 2, 2, 1)))):
        keras.utils.set_random_seed(3)
        with distribution.scope():
            model = ks.models.UNet3D((20, 12, 18, 1), classes=3, filters=4, levels=2, convolutions=1)
        model.compile("sgd", ks.losses.DiceCrossentropy())
        model.fit(tf.data.Dataset.from_tensors((x, y)), verbose=0)
        results.append(model.get_weights())
    equal(results[1], results[0])


def test_models_that_are_gone_leave_no_programs(tmp_path):
    def programs():
        gc.collect()
        return {id(x) for x in gc.get_objects() if isinstance(x, Program)}

    before = programs()  # This concerns calls under a tape, whose gradient may be asked for at any time.
    *_, distribution = distributions(*MESHES[0], tmp_path)
    model = unet(distribution)
    model.train_on_batch(IMAGES, LABELS)
    assert programs() - before
    for blocks in model.predict_blocks(IMAGES, batch_size=3):
        assert blocks[0].values.size
    del model, blocks
    keras.backend.clear_session()
    assert not programs() - before


def test_blocks_go_into_a_file(tmp_path):
    *_, distribution = distributions(*MESHES[0], tmp_path / "offload")
    model = unet(distribution)
    (path,) = ks.inference.predict_to_files(model, IMAGES[:1], tmp_path / "labels.nii")
    expected = np.argmax(model.predict(IMAGES[:1], verbose=0)[0], -1)
    np.testing.assert_array_equal(ks.volumes.read_volume(path).array, expected)


def test_two_calls_before_their_gradients_are_refused_rather_than_mixed_up(tmp_path):
    _, distribution, _ = distributions(*MESHES[0], tmp_path)
    model = unet(distribution)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(IMAGES[:1], training=True)) + tf.reduce_sum(model(IMAGES[1:2], training=True))
    with pytest.raises(tf.errors.UnknownError, match="only the last call of a model can be differentiated"):
        tape.gradient(loss, model.trainable_variables)


def test_a_second_gradient_of_one_call_is_refused(tmp_path):
    _, distribution, _ = distributions(*MESHES[0], tmp_path)
    model = unet(distribution)
    with tf.GradientTape(persistent=True) as tape:
        loss = tf.reduce_sum(model(IMAGES[:1], training=True))
    tape.gradient(loss, model.trainable_variables)
    with pytest.raises(tf.errors.UnknownError, match="computed a second time"):
        tape.gradient(loss, model.trainable_variables)


def test_nothing_is_kept_after_a_step(tmp_path):
    *_, distribution = distributions(*MESHES[0], tmp_path)
    kept = []
    make = distribution.runtime.mesh_impl

    def mesh_impl():
        kept.append(make())
        return kept[-1]

    distribution.runtime.mesh_impl = mesh_impl
    model = unet(distribution)
    model.train_on_batch(IMAGES, LABELS)
    (program,) = [impl.program for impl in kept if impl.program.nodes]
    assert program._storage.held == 0
    assert program._storage.peak > IMAGES.nbytes


@pytest.mark.parametrize("count", [2, 3, 8, 9, 10, 16, 17, 18, 25, 64])
def test_sums_are_made_in_the_order_of_tensorflows(count):
    terms = [tf.random.stateless_normal([1000], (count, i)) for i in range(count)]
    total = Total(count, "SUM")
    assert [total.add(x) for x in terms] == [False] * (count - 1) + [True]
    np.testing.assert_array_equal(total.value, tf.add_n(terms))


def test_a_disk_that_fills_up_during_training_is_named_and_training_continues_elsewhere(tmp_path):
    """A limit on the size of files stands in for a full disk; the system reports it in the same way."""
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import test_streaming as t
*_, distribution = t.distributions(*t.MESHES[0], {str(tmp_path)!r})
model = t.unet(distribution)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
try:
    model.train_on_batch(t.IMAGES, t.LABELS)
except OSError as error:
    print("NAMED", type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
print("LOSS", model.train_on_batch(t.IMAGES, t.LABELS, return_dict=True)["loss"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert f"NAMED OffloadError [Errno 27] offload='{tmp_path}': could not keep" in done.stdout, done.stderr
    assert "LOSS 1." in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_rights_is_refused_when_the_distribution_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ks.OffloadError, match="could not make a file in it"):
        ks.SpatialParallel(ks.device_mesh("rows:2", devices=["cpu:0"]), "x:rows", offload=tmp_path / "file")


# With two threads it is refused as soon as both wait at once.
@pytest.mark.parametrize(("threads", "outcomes"), [(2, ("REFUSED", "EQUAL")), (3, ("EQUAL",))])
def test_two_models_side_by_side_take_turns_or_are_refused_and_never_hang(threads, outcomes):
    program = f"""
import sys
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads({threads})
sys.path.insert(0, {str(Path(__file__).parent)!r})
tf.zeros([1])  # TensorFlow starts with as many threads.
import test_streaming as t
distribution = t.ks.SpatialParallel(t.ks.device_mesh("rows:2", devices=["cpu:0"]), "x:rows")
models = [t.small(distribution) for _ in range(2)]
both = tf.function(lambda x: [model(x) for model in models], autograph=False)
try:
    first, second = both(tf.constant(t.IMAGES[:1]))
    t.equal(first, second)
    print("EQUAL")
except tf.errors.OpError as error:
    print("REFUSED" if "2 calls of models whose shards share devices run side by side" in str(error) else error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() in outcomes, done.stdout + done.stderr


@pytest.mark.parametrize(("threads", "offload"), [(2, True), (8, False)])
def test_several_python_threads_may_call_models_at_once(threads, offload, tmp_path):
    place = str(tmp_path) if offload else "host"
    program = f"""
import sys, threading
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads({threads})
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_streaming as t
mesh = t.ks.device_mesh("rows:2", devices=["cpu:0"])
distributions = [t.ks.SpatialParallel(mesh, "x:rows", offload={place!r}) for _ in "12"]
# All of the first model's threads, and one of another's.
models = [t.small(distributions[0])] * 4 + [t.small(distributions[1])]
images = [t.IMAGES[:1] * (1 + i) for i in range(5)]
expected = [model.predict_on_batch(image) for model, image in zip(models, images)]
calls = [
    lambda model, x: model.predict_on_batch(x),
    lambda model, x: model(x),
    lambda model, x: next(iter(model.predict_blocks(x)))[1].values,
]
outcomes = []
def work(i):
    for number in range(25):
        call = number % len(calls) if i != 4 else 0
        try:
            t.equal(calls[call](models[i], images[i]), expected[i][:, 10:] if call == 2 else expected[i])
            outcomes.append("EQUAL")
        except BaseException as error:
            outcomes.append(f"{{type(error).__name__}} {{error}}"[:1000])
threads = [threading.Thread(target=work, args=(i,)) for i in range(5)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(outcomes), set(outcomes))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "125 {'EQUAL'}", done.stdout + done.stderr


def test_a_python_function_of_a_data_set_that_calls_a_model_never_hangs_a_fit():
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_streaming as t
import tensorflow as tf
distribution = t.ks.SpatialParallel(t.ks.device_mesh("rows:2", devices=["cpu:0"]), "x:rows")
model, other = t.small(distribution), t.small(distribution)
model.compile("sgd", "mse")
def called(x):
    return other.predict_on_batch(x)
data = tf.data.Dataset.from_tensor_slices(t.IMAGES).batch(1).repeat(4)
data = data.map(lambda x: (x, tf.ensure_shape(tf.numpy_function(called, [x], tf.float32), (1, *t.SHAPE[:-1], 3))))
print("LOSS", model.fit(data.prefetch(2), verbose=0).history["loss"][0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert "LOSS 0." in done.stdout or "side by side" in done.stderr, done.stdout + done.stderr


def test_numbers_of_shards_go_with_the_model_that_handed_them_out(tmp_path):
    _, distribution, _ = distributions(*MESHES[0], tmp_path)
    model = small(distribution)
    for blocks in model.predict_blocks(IMAGES):
        assert blocks[0].values.size
    assert distribution.runtime._handed_out
    del model, blocks
    keras.backend.clear_session()
    gc.collect()
    assert not distribution.runtime._handed_out


def test_a_process_with_one_thread_between_operations_gets_another_or_is_told():
    program = """
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(1)
{started}
import keras_spatial as ks
ks.SpatialParallel(ks.device_mesh("rows:2", devices=["cpu:0"]), "x:rows")
print("THREADS", tf.config.threading.get_inter_op_parallelism_threads())
"""
    run = {"capture_output": True, "text": True, "timeout": 120}
    fresh = subprocess.run([sys.executable, "-c", program.format(started="")], **run)
    assert "THREADS 4" in fresh.stdout, fresh.stderr
    late = subprocess.run([sys.executable, "-c", program.format(started="tf.zeros([1])")], **run)
    assert "need two of TensorFlow's threads" in late.stderr
