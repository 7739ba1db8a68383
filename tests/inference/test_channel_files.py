"""Which files are the channels of one case: those of nnU-Net's layout."""

import nibabel as nib
import numpy as np
import pytest

from keras_spatial.inference import ResultsCollide, check_results, find_sources

CHANNELS = ("T1", "T2")


def write(folder, *names):
    """Volumes of one channel."""
    folder.mkdir(exist_ok=True)
    for name in names:
        nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.float32), np.eye(4)), folder / name)
    return folder


def names_of(sources):
    return {source.stem: [path.name for path in source.files] for source in sources}


def test_numbered_files_are_the_channels_of_a_case_in_the_order_of_their_numbers(tmp_path):
    write(tmp_path, "liver_0_0001.nii.gz", "liver_0_0000.nii.gz", "b_0001.NII", "b_0000.nii.gz")
    sources = find_sources([tmp_path], channels=CHANNELS)
    assert names_of(sources) == {
        "b": ["b_0000.nii.gz", "b_0001.NII"],
        "liver_0": ["liver_0_0000.nii.gz", "liver_0_0001.nii.gz"],
    }
    assert [source.name for source in sources] == ["b", "liver_0"]
    assert not [source for source in sources if source.unusable()]


@pytest.mark.parametrize("channels", [(), ("CT",)])
def test_one_channel_is_a_case_by_itself_whatever_its_name(tmp_path, channels):
    sources = find_sources([write(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz")], channels=channels)
    assert [source.stem for source in sources] == ["segmentation-a_0000", "segmentation-a_0001"]


def test_files_of_the_command_line_are_put_together_by_their_folders(tmp_path):
    folders = [write(tmp_path / name, "a_0000.nii.gz", "a_0001.nii.gz") for name in ("first", "second")]
    files = [path for folder in folders for path in sorted(folder.iterdir())]
    assert names_of(find_sources(files[:2], channels=CHANNELS)) == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}
    with pytest.raises(ResultsCollide, match=r"would both be a\.nii\.gz"):
        find_sources(files, channels=CHANNELS)


@pytest.mark.parametrize(
    ("names", "received"),
    [
        (["a_0001.nii.gz"], "a_0001.nii.gz"),
        (["a_0000.nii.gz"], "a_0000.nii.gz"),
        (["a_0000.nii.gz", "a_0002.nii.gz"], "a_0000.nii.gz, a_0002.nii.gz"),
        (["a_0000.nii.gz", "a_0001.mha", "a_0001.nii.gz"], "a_0000.nii.gz, a_0001.mha, a_0001.nii.gz"),
        ([f"a_{n:04}.nii.gz" for n in range(10)], "a_0006.nii.gz, a_0007.nii.gz and 2 more"),
    ],
    ids=["first-missing", "second-missing", "wrong-number", "one-twice", "many"],
)
def test_missing_and_superfluous_channels_are_named(tmp_path, names, received):
    for name in names:
        (tmp_path / name).touch()
    (source,) = find_sources([tmp_path], channels=CHANNELS)
    reason = str(source.unusable())
    assert reason.startswith(
        "ChannelError: expected one file for each of the 2 channels (T1, T2), from a_0000 to a_0001"
    )
    assert reason.endswith(received)


def test_a_channel_that_cannot_be_read_is_named(tmp_path):
    write(tmp_path, "a_0000.nii.gz")
    (tmp_path / "a_0001.nii.gz").symlink_to(tmp_path / "nowhere")
    (source,) = find_sources([tmp_path], channels=CHANNELS)
    assert source.unusable() == "a_0001.nii.gz cannot be read: No such file or directory"


def test_no_result_replaces_a_channel(tmp_path):
    write(tmp_path, "a_0001_0000.nii.gz", "a_0001_0001.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz")
    with pytest.raises(ResultsCollide, match=r"would replace a volume to segment, a_0001\.nii\.gz"):
        check_results(find_sources([tmp_path], channels=CHANNELS), tmp_path, ".nii.gz", overwrite=True)
