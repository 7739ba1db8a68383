"""Several steps share volumes: each volume is in one share, and those that a step cannot use are in the common
table.
"""

import csv
from pathlib import Path

import pytest

from components.files import write_json
from components.gather.gather import gather_segmentations
from components.segment.settings import SEEN
from components.segment.volumes import shared
from keras_spatial.inference import NothingToSegment, ResultsCollide, Source
from keras_spatial.inference.batches import FAILED, read_failed, write_rows


def share(folder, *results, failed=(), seen=range(5)):
    """Write the results of a step `segment` that has listed these volumes."""
    folder.mkdir()
    write_json(folder / SEEN, {f"segmentation-{n}": f"volume-{n}.nii.gz" for n in seen})
    for name in results:
        (folder / name).write_text(f"labels of {name}")
    write_rows(folder, [(name, "ScaleError: expected a scale") for name in failed])
    return str(folder)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_volume_is_in_one_share_whatever_the_order_of_the_folder(count):
    sources = [Source(Path(f"volume-{n}.nii")) for n in (4, 0, 10, 3, 2)]
    shares = [shared(sources, f"{k}-of-{count}") for k in range(count)]
    assert shares == [shared(sources[::-1], f"{k}-of-{count}") for k in range(count)]
    assert sorted(s.name for part in shares for s in part) == sorted(s.name for s in sources)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["", "2-of-2", "0-of-0", "a-of-b", "-1-of-2"])
def test_a_share_that_does_not_exist_is_named(text):
    with pytest.raises(ValueError, match="share: expected K-of-N"):
        shared([], text)


def test_results_and_failures_of_all_shares_are_put_together(tmp_path):
    parts = [
        share(tmp_path / "a", "segmentation-0.nii.gz", "segmentation-2.nii.gz", failed=["volume-4.nii.gz"]),
        share(tmp_path / "b", "segmentation-3.nii.gz", failed=["volume-1.nii.gz"]),
        share(tmp_path / "c"),
    ]
    facts = gather_segmentations(parts, str(tmp_path / "all"))["predictions"]
    assert facts == {"segmented": 3, "failed": 2}
    assert (tmp_path / "all" / "segmentation-2.nii.gz").read_text() == "labels of segmentation-2.nii.gz"
    with (tmp_path / "all" / FAILED).open() as file:
        assert [row[0] for row in csv.reader(file)] == ["volume", "volume-1.nii.gz", "volume-4.nii.gz"]
    assert read_failed(tmp_path / "c") == []
    assert not (tmp_path / "all" / SEEN).exists()


def test_without_any_result_the_first_reason_is_named(tmp_path):
    parts = [share(tmp_path / "a", seen=[1]), share(tmp_path / "b", failed=["volume-1.nii.gz"], seen=[1])]
    with pytest.raises(NothingToSegment, match=r"none of 1 volumes.*volume-1.nii.gz: ScaleError: expected a scale"):
        gather_segmentations(parts, str(tmp_path / "all"))


def test_a_volume_that_was_in_no_share_is_in_the_table(tmp_path):
    """Volumes 0 and 2 are moved away before the second share looks, so it counts 3 as the first volume of two."""
    first = shared(sources := [Source(Path(f"volume-{n}.nii.gz")) for n in (0, 1, 2, 3)], "0-of-2")
    second = shared([source for source in sources if source not in first], "1-of-2")
    assert [s.name for s in (*first, *second)] == ["volume-0.nii.gz", "volume-2.nii.gz", "volume-3.nii.gz"]
    parts = [
        share(tmp_path / "a", "segmentation-0.nii.gz", "segmentation-2.nii.gz", seen=range(4)),
        share(tmp_path / "b", "segmentation-3.nii.gz", seen=(1, 3)),
    ]
    assert gather_segmentations(parts, str(tmp_path / "all"))["predictions"] == {"segmented": 3, "failed": 1}
    [(name, reason)] = read_failed(tmp_path / "all")
    assert name == "volume-1.nii.gz" and "in no share" in reason


def test_a_volume_that_two_shares_have_segmented_counts_once_if_the_folder_has_changed(tmp_path):
    parts = [
        share(tmp_path / "a", "segmentation-1.nii.gz", seen=(1, 2)),
        share(tmp_path / "b", "segmentation-1.nii.gz", failed=["volume-2.nii.gz"], seen=(0, 1, 2)),
    ]
    facts = gather_segmentations(parts, str(tmp_path / "all"))["predictions"]
    assert facts == {"segmented": 1, "failed": 2}
    assert [name for name, _ in read_failed(tmp_path / "all")] == ["volume-0.nii.gz", "volume-2.nii.gz"]


def test_a_damaged_table_of_failures_hides_none(tmp_path):
    part = share(tmp_path / "a", *(f"segmentation-{n}.nii.gz" for n in range(4)), failed=["volume-4.nii.gz"])
    (tmp_path / "a" / FAILED).write_bytes(b"volume,reason\r\nvol\xff")
    assert gather_segmentations([part], str(tmp_path / "all"))["predictions"] == {"segmented": 4, "failed": 1}
    assert [name for name, _ in read_failed(tmp_path / "all")] == ["volume-4.nii.gz"]


def test_a_volume_of_two_shares_is_named(tmp_path):
    parts = [share(tmp_path / name, "segmentation-0.nii.gz") for name in "ab"]
    with pytest.raises(ResultsCollide, match=r"expected shares without common volumes.*segmentation-0"):
        gather_segmentations(parts, str(tmp_path / "all"))


def test_a_series_of_which_one_share_has_a_part_that_it_cannot_use_is_refused(tmp_path):
    """The result of the other share covers only the other part: it would silently lack slices."""
    parts = [share(tmp_path / name) for name in "ab"]
    for part in parts:
        write_json(Path(part) / SEEN, {"segmentation-1f": "DICOM series 1f", f"segmentation-{part[-1]}": part[-1]})
    (tmp_path / "a" / "segmentation-1f.nii.gz").write_text("labels of a part")
    write_rows(tmp_path / "b", [("DICOM series 1f", "SliceError: expected slices at equal distances")])
    with pytest.raises(ResultsCollide, match=r"segmentation-1f.*SliceError.*into one folder"):
        gather_segmentations(parts, str(tmp_path / "all"))
