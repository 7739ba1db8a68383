"""Reading blocks: only the wanted bytes are read, and every process has the same cases in the same step."""

import itertools
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_spatial as ks
from datasets import lits
from datasets.phantom import patient, render, write_lits_folder
from datasets.phantom.phantom_dataset_builder import Builder, PhantomConfig
from keras_spatial.data import STRONG, Augmentation, Box, Part, Store, StoreError, load, order, part_of
from keras_spatial.data.packing import PackedTensor
from keras_spatial.volumes import hu_window

SIZE = (16, 16, 16)


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    config = PhantomConfig(resolution=16, cases=(6, 1, 1), blocks=(4, 2, 1))
    builder = Builder(config=config, data_dir=str(tmp_path_factory.mktemp("data")))
    builder.download_and_prepare()
    return builder


@pytest.fixture(scope="module")
def truth():
    scans = [render(patient(n), SIZE) for n in range(6)]
    return np.stack([hu_window(hu)[..., None] for hu, _ in scans]), np.stack([label for _, label in scans])


def arrays(dataset):
    return [(image.numpy(), label.numpy()) for image, label in dataset]


def test_whole_images_come_in_the_stored_order(builder, truth):
    batches = arrays(load(builder, "train", batch_size=2))
    assert len(batches) == 3
    np.testing.assert_array_equal(np.concatenate([image for image, _ in batches]), truth[0])
    np.testing.assert_array_equal(np.concatenate([label for _, label in batches]), truth[1])


def test_a_folder_does_as_well_as_a_builder(builder, truth):
    (image, _), *_ = arrays(load(builder.data_dir, "train"))
    np.testing.assert_array_equal(image[0], truth[0][0])


@pytest.mark.parametrize("counts", [(1, 1, 1), (2, 1, 1), (2, 2, 1), (4, 2, 1)], ids=str)
@pytest.mark.parametrize("augmentation", [None, STRONG], ids=["plain", "augmented"])
def test_all_parts_of_a_step_make_up_the_whole_step(builder, counts, augmentation):
    options = {"batch_size": 2, "shuffle": True, "seed": 3, "epochs": 2, "augmentation": augmentation}
    whole = arrays(load(builder, "train", **options))
    parts = {i: arrays(load(builder, "train", part=Part(i, counts), **options))
             for i in itertools.product(*(range(n) for n in counts))}  # fmt: skip
    for step, (image, label) in enumerate(whole):
        for index, batches in parts.items():
            box = Part(index, counts).box(SIZE)
            where = (slice(None), *(slice(a, b) for a, b in zip(box.start, box.stop, strict=True)))
            np.testing.assert_allclose(batches[step][0], image[where], atol=1e-6)
            np.testing.assert_array_equal(batches[step][1], label[where])


def test_parts_of_the_batch_axis_share_each_batch(builder):
    options = {"batch_size": 2, "shuffle": True, "seed": 1}
    whole = arrays(load(builder, "train", **options))
    shares = [arrays(load(builder, "train", part=Part(batch_index=i, batch_of=2), **options)) for i in range(2)]
    for step, (image, _) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([share[step][0] for share in shares]), image)


def test_a_resumed_run_continues_as_if_uninterrupted(builder):
    options = {"batch_size": 4, "shuffle": True, "epochs": 3, "augmentation": STRONG}
    straight, resumed = (
        arrays(load(builder, "train", **options)),
        arrays(load(builder, "train", first_step=3, **options)),
    )
    assert [len(image) for image, _ in straight] == [4, 2] * 3
    for (ours, _), (theirs, _) in zip(resumed, straight[3:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_order_is_a_new_permutation_each_epoch_and_the_same_everywhere():
    np.testing.assert_array_equal(order(5, 3, None), range(5))
    orders = [tuple(order(10, epoch, 0)) for epoch in range(20)]
    assert len(set(orders)) == 20
    assert all(sorted(o) == list(range(10)) for o in orders)
    # Pinned, because other machines must agree.
    assert list(order(6, 1, 2)) == [5, 2, 3, 4, 1, 0]


def test_one_block_reads_no_more_than_a_record_of_its_own_would_hold(builder, truth):
    """Each block is compared with a TFRecord of this block alone, with all facts of its case."""
    (example, *_) = builder.as_dataset("train").take(1).as_numpy_iterator()
    for index in np.ndindex(4, 2, 1):
        part = Part(index, (4, 2, 1))
        store = Store(builder, "train")
        store.read(0, part.box(SIZE))
        box = part.box(SIZE)
        inside = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        alone = {**example, "image": truth[0][0][inside], "label": truth[1][0][inside], "block": np.array(index)}
        assert 0 < store.bytes_read <= len(record(builder, alone))


def record(builder, example):
    features = dict(builder.info.features)
    for name in ("image", "label"):
        stored = features[name].stored
        features[name] = PackedTensor(shape=example[name].shape, dtype=features[name].np_dtype, stored=stored)
    kinds = tfds.features.FeaturesDict({**features, "block": tfds.features.Tensor(shape=(3,), dtype=np.int64)})
    serializer = tfds.core.example_serializer.ExampleSerializer(kinds.get_serialized_info())
    return serializer.serialize_example(kinds.encode_example(example))


def test_a_process_reads_the_facts_of_a_case_once(builder):
    store = Store(builder, "train")
    box = Part((1, 0, 0), (4, 2, 1)).box(SIZE)
    store.read(0, box)
    first = store.bytes_read
    store.read(0, box)
    assert store.bytes_read - first < first


def test_any_box_can_be_read(builder, truth):
    image, label = Store(builder, "train").read(4, Box((3, 7, 1), (13, 9, 16)))
    np.testing.assert_array_equal(image, truth[0][4][3:13, 7:9, 1:16])
    np.testing.assert_array_equal(label, truth[1][4][3:13, 7:9, 1:16])


def test_the_part_of_a_device_follows_the_layout():
    distribution = ks.SpatialParallel(ks.device_mesh("cores:2, rows:4, columns:2"), "batch:cores, x:rows, z:columns")
    part = part_of(distribution, {"rows": 3, "columns": 1, "cores": 1})
    assert part == Part((3, 0, 1), (4, 1, 2), batch_index=1, batch_of=2)
    with pytest.raises(ValueError, match="columns"):
        part_of(distribution, {"rows": 0, "cores": 0})


@pytest.mark.parametrize(
    "options, error, message",
    [
        (
            {"part": Part((0, 0, 0), (3, 1, 1))},
            StoreError,
            r"which cannot be joined to \(3, 1, 1\)",
        ),
        ({"part": Part((0, 0, 0), (1, 1, 2))}, StoreError, "cannot be joined"),
        ({"batch_size": 3, "part": Part(batch_of=2)}, ValueError, "multiple of 2"),
        ({"batch_size": 4, "part": Part(batch_of=4)}, ValueError, "last batch of 2"),
        ({"batch_size": 7, "drop_remainder": True}, ValueError, "at most the number of cases, 6"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"first_step": -1}, ValueError, "first_step=-1"),
    ],
)
def test_what_cannot_be_read_is_an_error_at_once(builder, options, error, message):
    with pytest.raises(error, match=message):
        load(builder, "train", **options)


def test_a_split_that_is_not_there_is_named(builder):
    with pytest.raises(StoreError, match="'exam'"):
        Store(builder, "exam")


def test_a_truncated_file_is_named(builder, tmp_path):
    shutil.copytree(builder.data_dir, tmp_path / "copy")
    path = next((tmp_path / "copy").glob("*-train.tfrecord*"))
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(StoreError, match=path.name):
        Store(tmp_path / "copy", "train").read(5, Box((0, 0, 0), (1, 1, 1)))


@pytest.mark.parametrize("feature", ["image", "label"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_an_error_with_the_file_and_the_case(builder, tmp_path, feature, place):
    shutil.copytree(builder.data_dir, tmp_path / "copy")
    path = next((tmp_path / "copy").glob("*-train.tfrecord*"))
    content = bytearray(path.read_bytes())
    record = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())[2]
    value = tf.train.Example.FromString(record).features.feature[feature].bytes_list.value[0]
    first, behind = np.frombuffer(value[:16], "<u8").tolist()
    content[content.find(record) + record.find(value) + first + int(place * (behind - first))] ^= 4
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"(?s){path.name}.*case 2, block \(0, 0, 0\)"):
        Store(tmp_path / "copy", "train").read(2, Box((0, 0, 0), SIZE))


def test_fit_takes_it(builder):
    model = keras.Sequential([keras.Input((*SIZE, 1)), keras.layers.Conv3D(3, 1)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = model.fit(load(builder, "train", batch_size=3, epochs=2), epochs=2, steps_per_epoch=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize("batch_size", [2, 4])  # Four of six cases leave a last batch of two.
@pytest.mark.parametrize("layout", ["x:rows, y:columns", "batch:columns, x:rows"])
def test_a_model_fed_block_by_block_trains_as_one_fed_with_whole_images(builder, layout, batch_size):
    losses = []
    for blocks in (False, True):
        keras.utils.set_random_seed(3)
        distribution = ks.SpatialParallel(ks.device_mesh("rows:2, columns:2"), layout)
        with distribution.scope():
            model = ks.models.UNet3D((*SIZE, 1), classes=3, filters=4, levels=2, convolutions=1, dropout=0.0)
        model.compile(keras.optimizers.SGD(0.05), ks.losses.DiceCrossentropy(), metrics=[ks.metrics.Dice(1)])
        options = {"distribution": distribution} if blocks else {}
        data = load(builder, "train", batch_size, shuffle=True, augmentation=STRONG, **options)
        history = model.fit(data, verbose=0).history
        losses.append([*history["loss"], *model.evaluate(data, verbose=0)])
    np.testing.assert_array_equal(*losses)


def test_blocks_that_are_not_those_of_the_model_are_named(builder):
    model = ks.models.UNet3D((*SIZE, 1), classes=3, filters=4, levels=2, convolutions=1)
    model = ks.partition(model, ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows"))
    model.compile(loss=ks.losses.DiceCrossentropy())
    other = ks.SpatialParallel(ks.device_mesh("rows:2"), "y:rows")
    with pytest.raises(ValueError, match=r"blocks of \(2, 8, 16, 16, 1\).*Received: 2 blocks of \(2, 16, 8, 16, 1\)"):
        model.evaluate(load(builder, "train", 2, distribution=other), verbose=0)
    with pytest.raises(ValueError, match="do not pass part"):
        load(builder, "train", 2, Part((0, 0, 0), (2, 1, 1)), distribution=other)


# ---- images of differing sizes


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """LiTS phantoms whose volumes differ in size, on their own grids, in blocks."""
    folder = tmp_path_factory.mktemp("unequal")
    for number, size in enumerate([(18, 16, 20), (24, 17, 16), (16, 22, 19), (20, 20, 20), (16, 16, 16)]):
        scratch = tmp_path_factory.mktemp("one")
        write_lits_folder(scratch, 1, seed=number, size=size)
        for part in ("volume", "segmentation"):
            (scratch / f"{part}-0.nii.gz").rename(folder / f"{part}-{number}.nii.gz")
    return lits.prepare(folder, tmp_path_factory.mktemp("data"), None, blocks=(2, 1, 1))


def stored(builder, split="train"):
    store = Store(builder, split)
    return [store.read(case, Part().box(store.shape(case))) for case in range(store.cases)]


def test_smaller_images_lie_in_the_middle_of_padding_that_has_no_weight(unequal):
    (batch,) = load(unequal, "train", batch_size=3, size=(24, 24, 24))
    for image, label, weight, (original, truth) in zip(*batch, stored(unequal), strict=True):
        inside = tuple(slice((24 - n) // 2, (24 - n) // 2 + n) for n in truth.shape)
        np.testing.assert_array_equal(image[inside], original)
        np.testing.assert_array_equal(label[inside], truth)
        assert np.sum(weight[inside]) == truth.size == np.sum(weight)
        assert np.abs(image).sum() == pytest.approx(np.abs(original).sum(), rel=1e-5)


@pytest.mark.parametrize("size", [(24, 24, 24), (12, 18, 17)], ids=["padded", "cut"])
@pytest.mark.parametrize("augmentation", [None, STRONG], ids=["plain", "augmented"])
def test_the_parts_of_unequal_images_make_up_the_whole(unequal, size, augmentation):
    options = {"batch_size": 3, "size": size, "shuffle": True, "epochs": 2, "augmentation": augmentation}
    whole = list(load(unequal, "train", **options))
    counts = (3, 2, 1)
    for index in itertools.product(*(range(n) for n in counts)):
        box = Part(index, counts).box(size)
        where = (slice(None), *(slice(a, b) for a, b in zip(box.start, box.stop, strict=True)))
        for expected, found in zip(whole, load(unequal, "train", part=Part(index, counts), **options), strict=True):
            for a, b in zip(expected, found, strict=True):
                np.testing.assert_allclose(b, a[where], atol=1e-6)


def test_a_larger_image_is_cut_in_the_middle_or_at_a_place_drawn_in_each_epoch(unequal):
    size = (10, 10, 10)
    original, truth = stored(unequal)[0]
    images, labels, weights = next(iter(load(unequal, "train", size=size)))
    middle = tuple(slice(-((10 - n) // 2), -((10 - n) // 2) + 10) for n in truth.shape)
    np.testing.assert_array_equal(images[0], original[middle])
    np.testing.assert_array_equal(labels[0], truth[middle])
    assert np.all(weights == 1)
    drawn = [image.numpy() for image, _, _ in load(unequal, "test", size=size, shuffle=True, epochs=4)]
    assert len({image.tobytes() for image in drawn}) == 4


def test_padding_does_not_change_what_a_model_is_trained_on(unequal):
    """Loss and metric of padded images equal those of the images without padding, for a network that sees one voxel."""
    layer, losses = keras.layers.Conv3D(3, 1), []
    ((image, _),) = stored(unequal, "validation")
    for size in (image.shape[:3], (32, 32, 32)):
        inputs = keras.Input((*size, 1))
        model = keras.Model(inputs, layer(inputs))
        dice = ks.metrics.Dice(class_id=1, or_above=True)
        model.compile(loss=ks.losses.SoftDice(), weighted_metrics=[dice])
        losses.append(model.evaluate(load(unequal, "validation", size=size), verbose=0))
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"batch_size": 2}, StoreError, "pass size="),
        ({"size": (8, 8)}, ValueError, "three positive voxel counts. Received: \\(8, 8\\)"),
        ({"size": (8, 0, 8)}, ValueError, "three positive voxel counts"),
    ],
)
def test_what_does_not_fit_unequal_images_is_named(unequal, arguments, error, message):
    with pytest.raises(error, match=message):
        load(unequal, "train", **arguments)


def test_only_the_chosen_axes_are_mirrored():
    flips = np.array([Augmentation(flips="x", rotation=False).draw(seed).flips for seed in range(20)])
    assert 0 < flips[:, 0].sum() < 20 and not flips[:, 1:].any()
    with pytest.raises(ValueError, match="'w'"):
        Augmentation(flips="w")


def test_values_without_bounds_are_not_clipped():
    image, label = np.full((4, 4, 4, 2), -3, np.float32), np.zeros((4, 4, 4), np.uint8)
    for bounds, expected in ((None, -3), ((0.0, 1.0), 0)):
        transform = Augmentation(bounds=bounds).draw(1)
        found, _ = transform.apply(lambda box: (image, label), Box((0, 0, 0), (4, 4, 4)), (4, 4, 4))
        assert found.shape == image.shape and np.all(found == expected)
