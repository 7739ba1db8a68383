"""Cases with rare classes are drawn as often as was asked for, in every process and after a resumption."""

import json
from pathlib import Path

import numpy as np
import pytest

from datasets.phantom.phantom_dataset_builder import Builder, PhantomConfig
from keras_spatial.data import (
    NNUNET,
    PAPER,
    Box,
    CaseClasses,
    ClassPlaces,
    Oversampling,
    Part,
    Store,
    StoreError,
    find_classes,
    load,
    rare_classes,
    read_classes,
    write_classes,
)
from keras_spatial.data.classes import CLASSES
from keras_spatial.data.loading import Placement

CASES = 6


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    config = PhantomConfig(resolution=16, cases=(CASES, 1, 1), blocks=(2, 2, 1))
    builder = Builder(config=config, data_dir=str(tmp_path_factory.mktemp("data")))
    builder.download_and_prepare()
    write_classes(builder)
    return builder


def whole(store, case):
    return store.read(case, Part().box(store.shape(case)))[1]


def places(*voxels):
    return ClassPlaces(len(voxels), voxels)


def of_cases(*classes):
    """The digest of cases, each of which has the given classes at some voxel."""
    return [CaseClasses(f"case-{n}", {c: places((n, c, 0)) for c in (0, *found)}) for n, found in enumerate(classes)]


def test_the_digest_has_every_class_of_a_case_and_places_where_it_is(builder):
    store = Store(builder, "train")
    for case, found in enumerate(read_classes(builder, "train")):
        label = whole(store, case)
        counts = np.bincount(label.ravel())
        assert {number: p.voxels for number, p in found.classes.items()} == {
            n: c for n, c in enumerate(counts.tolist()) if c
        }
        for number, facts in found.classes.items():
            assert 0 < len(facts.places) <= 64
            assert {label[place] for place in facts.places} == {number}
            # From every stored block that has the class.
            blocks = {tuple(2 * v // 16 for v in place[:2]) for place in np.argwhere(label == number)}
            assert {tuple(2 * v // 16 for v in place[:2]) for place in facts.places} == blocks


def test_a_class_that_is_everywhere_is_found_in_proportion(builder):
    background = find_classes(Store(builder, "train"), 0)[0]
    assert len(background.places) > 32


def test_as_many_examples_as_asked_for_have_the_class():
    found = of_cases([1], [1], [1, 2], [1], [1], [1], [1], [1, 2])
    drawn = Oversampling(0.5, found, (2,))
    examples = [drawn.draw(number % 8, number, seed=7) for number in range(4000)]
    replaced = [example for example in examples if example.place is not None]
    assert len(replaced) / 4000 == pytest.approx(0.5, abs=0.03)
    assert np.bincount([e.case for e in replaced]).tolist()[2::5] == pytest.approx([1000, 1000], abs=120)
    assert {e.place for e in replaced} == {(2, 2, 0), (7, 2, 0)}
    # The examples that are not replaced are the cases of the order, of which a quarter has the class anyway.
    assert np.mean([e.case in (2, 7) for e in examples]) == pytest.approx(0.5 + 0.5 / 4, abs=0.03)
    assert [e.number for e in examples] == list(range(4000))


def test_each_rare_class_is_drawn_equally_often():
    drawn = Oversampling(1.0, of_cases([1], [1], [1], [1, 2]), (1, 2))
    rare = [drawn.draw(0, number, seed=1).place for number in range(1000)]
    assert rare.count((3, 2, 0)) == pytest.approx(500, abs=60)


def test_an_order_that_draws_nothing_stays_what_it_was(builder):
    found = read_classes(builder, "train")
    drawn = {"shuffle": True, "seed": 3, "epochs": 2}
    plain, none = (
        list(load(builder, "train", **drawn, oversampling=o)) for o in (None, Oversampling(0.0, found, (1,)))
    )
    for (a, _), (b, _) in zip(plain, none, strict=True):
        np.testing.assert_array_equal(a, b)


def test_all_parts_draw_the_same_and_a_resumed_run_what_it_would_have(builder):
    found = read_classes(builder, "train")
    first = found[0].case
    # Only one case has the class, so half of all examples are this case.
    found = [CaseClasses(c.case, {**c.classes, **({9: places((3, 4, 5))} if c.case == first else {})}) for c in found]
    options = {"shuffle": True, "seed": 5, "epochs": 4, "oversampling": Oversampling(0.5, found, (9,))}
    images = [image for image, _ in load(builder, "train", **options)]
    truth = Store(builder, "train").read(0, Part().box((16, 16, 16)))[0]
    share = np.mean([np.array_equal(image[0], truth) for image in images])
    assert share == pytest.approx(0.5 + 0.5 / CASES, abs=0.2)
    upper = [image for image, _ in load(builder, "train", part=Part((1, 0, 0), (2, 1, 1)), **options)]
    for image, half in zip(images, upper, strict=True):
        np.testing.assert_array_equal(image[:, 8:], half)
    for image, later in zip(images[13:], load(builder, "train", first_step=13, **options), strict=True):
        np.testing.assert_array_equal(image, later[0])


@pytest.mark.parametrize(("augmentation", "near"), [(PAPER, 0), (NNUNET, 1)], ids=["paper", "nnunet"])
def test_a_voxel_is_where_the_augmentation_has_moved_it(augmentation, near):
    shape, place = (12, 15, 18), (6, 9, 7)
    label = np.zeros(shape, np.uint8)
    label[place] = 2
    image = np.zeros((*shape, 1), np.float32)

    def read(box):
        inside = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
        return image[inside], label[inside]

    seen = 0
    for seed in range(40):
        transform = augmentation.draw(seed)
        _, moved = transform.apply(read, Box((0, 0, 0), shape), shape)
        for voxel in np.argwhere(moved == 2):  # A volume made smaller may lose it.
            assert np.abs(voxel - transform.moved(place, shape)).max() <= near
            seen += 1
    assert seen >= 30


def test_a_crop_holds_the_voxel_wherever_else_it_is_drawn():
    starts = set()
    for number in range(200):
        placement = Placement.of((20, 20, 8), (6, 6, 10), seed=4, number=number, holding=(2, 13, 7))
        inside = placement.inside(Box((0, 0, 0), (6, 6, 10)))
        assert inside is not None
        assert all(a <= v < b for a, v, b in zip(inside.start, (2, 13, 7), inside.stop, strict=True))
        starts.add(inside.start)
    assert {s[0] for s in starts} == {0, 1, 2} and {s[1] for s in starts} == set(range(8, 14))


def test_crops_of_augmented_images_hold_the_class_that_was_drawn(builder):
    found = read_classes(builder, "train")
    options = {"shuffle": True, "epochs": 4, "size": (6, 6, 6), "augmentation": PAPER}
    crops = load(builder, "train", **options, oversampling=Oversampling(1.0, found, (1,)))
    assert all((label.numpy() == 1).any() for _, label, _ in crops)


def test_rare_are_the_classes_of_the_foreground_without_the_largest():
    large = CaseClasses("a", {0: places(), 1: ClassPlaces(900, ()), 3: ClassPlaces(20, ()), 5: ClassPlaces(30, ())})
    assert rare_classes([large]) == (3, 5)
    assert rare_classes(of_cases([4])) == (4,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, (1,)), "share: expected a number from 0 to 1. Received: 1.5"),
        ((0.3, ()), "classes: expected at least one number"),
        ((0.3, (1, 3)), r"classes: expected numbers of classes that some case has, of \[0, 1\]. Received: 3"),
    ],
)
def test_what_cannot_be_drawn_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Oversampling(arguments[0], of_cases([1]), arguments[1])


def test_the_classes_of_other_cases_are_refused(builder):
    with pytest.raises(
        ValueError, match=r"classes of the 6 cases of 'train'. Received: shuffle=True, the classes of 1"
    ):
        load(builder, "train", shuffle=True, oversampling=Oversampling(0.3, of_cases([1]), (1,)))


def test_a_digest_that_does_not_belong_to_the_data_set_is_named(builder):
    path = Path(builder.data_path) / CLASSES
    text = path.read_text()
    with pytest.raises(StoreError, match="expected the cases"):
        path.write_text(json.dumps({"train": [{"case": "other", "classes": {}}]}))
        read_classes(builder, "train")
    with pytest.raises(StoreError, match=r"classes\.json: missing or damaged"):
        path.write_text(text[:100])
        read_classes(builder, "train")
    path.write_text(text)
