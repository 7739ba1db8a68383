"""The phantoms: the same everywhere, block by block, body-like at any size, and too hard for a threshold."""

import hashlib

import nibabel as nib
import numpy as np
import pytest

from datasets.lits.cases import find_cases, read_case
from datasets.phantom import patient, render, spacing, write_lits_folder
from datasets.phantom.anatomy import ORIENTATIONS
from datasets.phantom.thresholding import Histogram, best_band, dice, histogram
from keras_spatial.volumes import to_canonical

SIZE = (48, 48, 48)


@pytest.fixture(scope="module")
def scans():
    return [render(patient(n), SIZE) for n in range(6)]


def test_voxels_are_those_of_every_other_machine():
    hu, labels = render(patient(3, seed=1), (24, 20, 16))
    digest = hashlib.sha256(hu.astype("<i2").tobytes() + labels.tobytes()).hexdigest()
    assert digest[:16] == "5171ba8102798140"


@pytest.mark.parametrize("start, stop", [((0, 0, 0), (24, 48, 48)), ((11, 5, 17), (40, 41, 18)), ((47, 47, 47), SIZE)])
def test_a_block_by_itself_equals_the_block_of_the_whole(scans, start, stop):
    hu, labels = render(patient(2), SIZE, start, stop)
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    np.testing.assert_array_equal(hu, scans[2][0][box])
    np.testing.assert_array_equal(labels, scans[2][1][box])


def test_every_case_has_a_liver_of_human_size_with_a_lesion(scans):
    for number, (_, labels) in enumerate(scans):
        litres = np.count_nonzero(labels) * np.prod(spacing(patient(number), SIZE)) / 1e6
        assert 0.8 < litres < 3
        assert 10 < np.count_nonzero(labels == 2) < 0.5 * np.count_nonzero(labels)


def test_lesions_measure_3_to_60_mm_and_most_are_hypodense():
    people = [patient(n) for n in range(200)]
    lesions = [(lesion, person.liver_hu) for person in people for lesion in person.lesions]
    diameters = np.array([2 * radius for lesion, _ in lesions for radius in lesion.radii])
    assert diameters.min() >= 3
    assert diameters.max() <= 60
    darker = np.mean([lesion.hu < liver for lesion, liver in lesions])
    assert 0.85 < darker < 0.97


def test_spacing_at_512_is_that_of_lits():
    steps = np.array([spacing(patient(n), (512, 512, 512)) for n in range(100)])
    assert steps[:, :2].min() >= 0.56 and steps[:, :2].max() <= 1.0
    assert steps[:, 2].min() >= 0.44


@pytest.mark.parametrize("lesion, most", [(False, 0.8), (True, 0.2)], ids=["liver", "lesion"])
def test_no_threshold_reaches_what_the_network_has_to(scans, lesion, most):
    counted = [histogram([scan]) for scan in scans]
    band = best_band(counted[:4], lesion)
    assert band.dice < most
    assert dice(counted[4:], band, lesion) < most
    # The same, voxel by voxel; the last edge is not part of a band.
    scores = []
    for hu, labels in scans[4:]:
        truth, found = (labels == 2) if lesion else (labels > 0), (hu >= band.low) & (hu < band.high)
        scores.append(2 * np.sum(truth & found) / (np.sum(truth) + np.sum(found)))
    assert dice(counted[4:], band, lesion) == pytest.approx(np.mean(scores))


def test_the_best_band_is_found_where_it_is_known():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1:3] = 1
    scan = (np.where(labels, 52, 0).astype(np.int16), labels)
    band = best_band([histogram([scan])], lesion=False)
    assert (band.low <= 52 < band.high, band.dice) == (True, 1.0)
    slabs = [tuple(part[..., z : z + 1] for part in scan) for z in range(4)]
    assert histogram(slabs).as_json() == histogram([scan]).as_json()
    assert Histogram.of_json(histogram([scan]).as_json()).sizes == (32, 0)


def test_the_last_edge_is_no_part_of_a_band():
    labels = np.ones((2, 2, 2), np.uint8)
    assert histogram([(np.full(labels.shape, 300, np.int16), labels)]).marked[-1] == 0
    assert histogram([(np.full(labels.shape, 299, np.int16), labels)]).marked[-1] == 8


def test_files_pass_the_checks_of_lits_and_differ_in_orientation(tmp_path):
    paths = write_lits_folder(tmp_path, 4, size=(20, 18, 16))
    assert [p.name for p in paths[:3]] == ["volume-0.nii.gz", "segmentation-0.nii.gz", "volume-1.nii.gz"]
    seen = set()
    for case in find_cases(tmp_path):
        volume, labels = read_case(case)
        seen.add(volume.orientation)
        hu, truth = render(patient(case.number), (20, 18, 16))
        np.testing.assert_array_equal(to_canonical(volume).array, hu)
        np.testing.assert_array_equal(to_canonical(labels).array, truth)
    assert len(seen) > 1
    assert seen <= set(ORIENTATIONS)


def test_case_n_does_not_depend_on_how_many_there_are(tmp_path):
    few = write_lits_folder(tmp_path / "few", 1, seed=5, size=16)
    many = write_lits_folder(tmp_path / "many", 2, seed=5, size=16)
    np.testing.assert_array_equal(nib.load(few[0]).dataobj, nib.load(many[0]).dataobj)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"cases": 0}, "cases: .*Received: 0"),
        ({"cases": 1, "size": 8}, "size: .*Received: 8"),
        ({"cases": 1, "size": (64, 64)}, "size: "),
        ({"cases": 1, "difficulty": "absurd"}, "difficulty: .*'absurd'"),
        ({"cases": 1, "seed": -1}, "seed=-1"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_lits_folder(tmp_path, **arguments)
