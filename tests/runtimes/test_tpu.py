"""The TPU runtime without a TPU: what each core's program sends and, with other collectives, what it computes.

A strategy that mirrors over logical CPUs runs the same single program in every replica. TensorFlow has no kernels for
the TPU's collectives on CPUs, so they are either only traced, or replaced by those of the strategy.
"""

import contextlib
import types

import keras
import nibabel as nib
import numpy as np
import pytest
import simulated_tpu
import tensorflow as tf
from mesh_tensorflow import simd_mesh_impl

import keras_spatial as ks
from keras_spatial.runtimes import tpu

SHAPE = (16, 12, 4, 1)


@pytest.fixture
def distribution(monkeypatch):
    """Makes distributions over a strategy of logical CPUs in place of TPU cores."""
    monkeypatch.setattr(tpu, "check_strategy", lambda strategy, devices: None)

    def make(mesh: str, layout: str) -> ks.SpatialParallel:
        return ks.SpatialParallel(ks.device_mesh(mesh), layout, strategy=simulated_tpu.strategy(mesh))

    return make


def network() -> keras.Model:
    keras.utils.set_random_seed(4)
    x = inputs = keras.Input(SHAPE)
    # Padding that becomes part of the windows.
    skip = keras.layers.Conv3D(4, 3)(keras.layers.ZeroPadding3D(1)(x))
    skip = keras.layers.ReLU()(keras.layers.BatchNormalization()(skip))
    x = keras.layers.MaxPooling3D(3, strides=2)(keras.layers.ZeroPadding3D(1)(skip))
    x = keras.layers.Conv3D(4, 3, padding="same", activation="relu")(x)
    x = keras.layers.Conv3DTranspose(4, 3, strides=2, padding="same")(x)
    return keras.Model(inputs, keras.layers.Conv3D(3, 1)(keras.layers.Concatenate()([x, skip])))


def data(cases: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(cases, *SHAPE)).astype("float32")
    return images, generator.integers(0, 3, size=(cases, *SHAPE[:-1])).astype("int32")


def own_blocks(distribution: ks.SpatialParallel, whole: np.ndarray, axes: str) -> tf.data.Dataset:
    """Batches of two cases, as a block for each core."""
    counts = tuple(distribution.shards(axis) for axis in axes.split())
    parts = []
    for place in distribution.runtime.local_coordinates():
        part = whole
        for i, axis in enumerate(axes.split()):
            if counts[i] > 1:
                part = np.split(part, counts[i], axis=i)[place[distribution.layout[axis]]]
        parts.append(tf.data.Dataset.from_tensor_slices(part).batch(2 // counts[0]))
    return tf.data.Dataset.zip(tuple(parts)).map(lambda *slices: ks.LocalBlocks(slices, counts))


def trained(distribution: ks.SpatialParallel | None, blocks: bool = False) -> dict[str, np.ndarray]:
    images, labels = data()
    if distribution is None:
        model = network()
    else:
        with distribution.scope():
            model = ks.partition(network(), distribution)
    metrics = [ks.metrics.Dice(class_id=1), "accuracy"]
    model.compile("adam", ks.losses.DiceCrossentropy(), metrics=metrics, jit_compile=False)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    if blocks and distribution is not None:
        dataset = tf.data.Dataset.zip(
            own_blocks(distribution, images, "batch x y z channels"), own_blocks(distribution, labels, "batch x y z")
        )
    history = model.fit(dataset, epochs=2, verbose=0, validation_data=dataset)
    results = {name: np.array(values) for name, values in history.history.items()}
    results["prediction"] = model.predict(images, batch_size=2, verbose=0)
    return results | {f"weight{i}": w for i, w in enumerate(model.get_weights())}


@pytest.mark.parametrize(
    ("mesh", "layout"),
    [("rows:2, columns:2", "x:rows, y:columns"), ("cores:2, rows:2", "batch:cores, x:rows"), ("rows:3", "x:rows")],
)
def test_the_program_of_each_core_trains_as_plain_keras(monkeypatch, distribution, mesh, layout):
    monkeypatch.setattr(simd_mesh_impl, "tpu_ops", simulated_tpu.MirroredCollectives)
    expected, found = trained(None), trained(distribution(mesh, layout))
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_core_that_is_handed_its_own_block_alone_trains_as_plain_keras(monkeypatch, distribution):
    monkeypatch.setattr(simd_mesh_impl, "tpu_ops", simulated_tpu.MirroredCollectives)
    expected = trained(None)
    found = trained(distribution("rows:2, columns:2", "x:columns, y:rows"), blocks=True)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


def test_each_core_returns_its_own_block_of_a_prediction(monkeypatch, distribution, tmp_path):
    """The shards do not divide the size; if a mesh axis splits nothing, one of its cores stands for all."""
    monkeypatch.setattr(simd_mesh_impl, "tpu_ops", simulated_tpu.MirroredCollectives)
    spatial = distribution("rows:3, columns:2", "x:rows")
    with spatial.scope():
        model = ks.partition(network(), spatial)
    images, _ = data(2)
    expected = network().predict(images, verbose=0)
    (blocks,) = model.predict_blocks(images)
    assert sorted(block.index[1].start for block in blocks) == [0, 6, 12]
    found = np.full(expected.shape, np.nan, "float32")
    for block in blocks:
        found[block.index] = block.values
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    ks.inference.predict_to_files(model, images[:1], tmp_path / "classes.nii")
    np.testing.assert_array_equal(nib.load(tmp_path / "classes.nii").get_fdata(), np.argmax(expected[0], -1))


def test_a_block_for_each_core_is_needed(distribution):
    with distribution("rows:2", "x:rows").scope():
        model = ks.Model(inputs := keras.Input((4, 4, 4, 1)), keras.layers.Conv3D(1, 1)(inputs))
    model.compile("sgd", "mse")
    blocks = ks.LocalBlocks((tf.zeros((1, 4, 4, 4, 1)),), (1, 1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"a block for each of 2 cores\. Received: 1 blocks"):
        model.train_on_batch(blocks, blocks)


def step_graph(distribution: ks.SpatialParallel) -> list[tf.Graph]:
    """The programs of one training step, one for each replica, with the TPU's own operations."""
    images, labels = data(2)
    with distribution.scope():
        model = ks.partition(network(), distribution)
        model.compile("sgd", ks.losses.DiceCrossentropy())
    model._partition.prepare(model, (tf.constant(images), tf.constant(labels)), "fit")
    strategy = distribution.strategy
    step = tf.function(lambda *batch: strategy.run(model.train_step, args=(batch,)), autograph=False)
    return step.get_concrete_function(tf.constant(images), tf.constant(labels)).graph


def collectives(graph: tf.Graph, kind: str, replica: str) -> list[tf.Operation]:
    return [o for o in graph.get_operations() if o.type == kind and o.device.endswith(replica)]


def test_halos_go_to_neighbours_and_gradients_into_one_sum(distribution):
    graph = step_graph(distribution("rows:4, columns:2", "x:rows, y:columns"))
    permutes = collectives(graph, "CollectivePermute", "CPU:0")
    assert permutes
    pairs = {tuple(map(tuple, tf.make_ndarray(o.inputs[1].op.get_attr("value")))) for o in permutes}
    along_rows = [(i, i + 2) for i in range(6)]
    along_columns = [(i, i + 1) for i in range(0, 8, 2)]
    wanted = [along_rows, [(b, a) for a, b in along_rows], along_columns, [(b, a) for a, b in along_columns]]
    assert {frozenset(p) for p in pairs} == {frozenset(p) for p in wanted}
    # Only halos of one voxel are sent: at most 1 of 4 (x) or 1 of 6 (y) planes of a shard.
    block = (SHAPE[0] // 4) * (SHAPE[1] // 2) * SHAPE[2] * 2 * 4
    assert max(o.inputs[0].shape.num_elements() for o in permutes) <= block / 2
    sums = collectives(graph, "CrossReplicaSum", "CPU:0")
    groups = {tuple(map(tuple, tf.make_ndarray(o.inputs[1].op.get_attr("value")))) for o in sums}
    assert groups == {(tuple(range(8)),)}
    # Normalization sums the gradients of its own two weights for each of 4 channels with its statistics.
    weights = sum(int(np.prod(v.shape)) for v in network().trainable_variables) - 2 * 4
    assert max(o.inputs[0].shape.num_elements() for o in sums) == weights


def test_no_program_holds_an_activation_of_the_whole_image(distribution):
    graph = step_graph(distribution("rows:4, columns:2", "x:rows, y:columns"))
    definition = graph.as_graph_def(add_shapes=True)
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    shapes = [s for n in nodes for s in n.attr["_output_shapes"].list.shape if not s.unknown_rank]
    # There are 2 images, and each activation has at least 4 channels. A shard with its halos is much smaller than that.
    assert max(np.prod([d.size for d in s.dim], initial=1) for s in shapes) < 2 * np.prod(SHAPE) * 4 / 2


def test_a_program_does_not_grow_with_the_mesh(distribution):
    counts = []
    for mesh in ("rows:2, columns:2", "rows:4, columns:2"):
        graph = step_graph(distribution(mesh, "x:rows, y:columns"))
        kinds = [o.type for o in graph.get_operations() if o.device.endswith("CPU:0")]
        counts.append(
            (kinds.count("CollectivePermute"), kinds.count("CrossReplicaSum"), kinds.count("PartitionedCall"))
        )
    assert counts[0] == counts[1] and all(counts[0])


@pytest.mark.parametrize("layout", ["x:rows, y:columns", "batch:rows, x:columns"])
def test_xla_compiles_the_program_for_a_core_that_is_known_only_when_it_runs(monkeypatch, layout):
    """Sums and permutes, which XLA has no CPU version of, are left out; all local computation is in."""
    alone = types.SimpleNamespace(cross_replica_sum=lambda t, groups: t, collective_permute=lambda t, pairs: t)
    monkeypatch.setattr(simd_mesh_impl, "tpu_ops", alone)
    monkeypatch.setattr(tpu, "check_strategy", lambda strategy, devices: None)
    number: list[tf.Tensor] = []
    monkeypatch.setattr(tpu.TpuMesh, "pnum_tensor", property(lambda mesh: number[-1]))
    replicas = types.SimpleNamespace(num_replicas_in_sync=4, scope=contextlib.nullcontext)
    placed = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), layout, strategy=replicas)
    model = ks.partition(network(), placed)
    model._compile_loss = keras.src.trainers.compile_utils.CompileLoss(ks.losses.DiceCrossentropy())
    variables = model.trainable_variables

    @tf.function(jit_compile=True, autograph=False)
    def program(core: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> list[tf.Tensor]:
        number.append(core)
        step = model.step(images, training=True)
        step.backward([step.objective(model, labels, None).loss], [tf.ones([])], variables)
        step.lower()
        return step.gradients(variables)

    images, labels = data(2)
    for core in (0, 3):
        for gradient, variable in zip(program(tf.constant(core), images, labels), variables, strict=True):
            assert gradient.shape == variable.shape and np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("mesh", "topology"),
    [
        ((4, 8), (4, 4, 1, 2)),
        ((16, 16), (16, 16, 1, 1)),
        ((8, 4), (2, 2, 4, 2)),
        ((2, 4, 4), (4, 4, 1, 2)),
        ((32,), (4, 4, 1, 2)),
    ],
)
def test_neighbours_on_the_mesh_are_neighbours_in_the_slice(mesh, topology):
    places = tpu.assignment(mesh, topology)
    assert len(set(map(tuple, places))) == len(places) == np.prod(mesh)
    grid = places.reshape(*mesh, len(topology))
    for axis in range(len(mesh)):
        assert np.all(np.abs(np.diff(grid, axis=axis)).sum(-1) == 1)


def test_a_mesh_that_no_axes_of_the_slice_make_up_still_uses_each_core_once():
    places = tpu.assignment((3, 4), (2, 6, 1, 1))
    assert len(set(map(tuple, places))) == 12
    assert np.all(np.abs(np.diff(places.reshape(3, 4, 4), axis=1)).sum(-1) == 1)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="as many devices as the slice has cores"):
        tpu.assignment((3,), (2, 2, 1, 2))
    mesh = ks.device_mesh("rows:2", devices=["tpu:0", "tpu:1"])
    with pytest.raises(ValueError, match=r"needs strategy=ks\.tpu_strategy"):
        ks.SpatialParallel(mesh, "x:rows")
    with pytest.raises(ValueError, match=r"expected a tf\.distribute\.TPUStrategy"):
        ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows", strategy=tf.distribute.MirroredStrategy(["/cpu:0"]))


def test_an_optimizer_from_outside_the_scope_is_refused(distribution):
    placed = distribution("rows:2", "x:rows")
    with placed.scope():
        model = ks.partition(network(), placed)
    with pytest.raises(ValueError, match=r"inside distribution\.scope"):
        model.compile(keras.optimizers.SGD(), "mse")
