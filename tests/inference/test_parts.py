"""The parts that the processes of a job compute equal what one process computes at once, to the last bit."""

import numpy as np
import pytest

from keras_spatial import inference, processes
from keras_spatial.inference.block_files import BlockFiles, Workspace, publish, shared_workspace
from keras_spatial.inference.parts import Blended, Part
from keras_spatial.inference.sliding import Windows, importance
from keras_spatial.volumes import labels_from_probabilities

CLASSES = 3


def probabilities(images):
    """Probabilities that depend on each voxel and its neighbours, so that overlapping windows do not agree."""
    near = images[..., :1] + np.roll(images[..., :1], 1, axis=1)
    scores = np.exp(np.concatenate([near, -near, np.full_like(near, 0.5)], -1))
    return (scores / scores.sum(-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("shape", [(11, 9, 6), (4, 13, 3), (5, 4, 4)], ids=str)
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_windows_are_blended_plane_by_plane_as_at_once(tmp_path, shape, blend):
    patch, overlap = (5, 4, 4), 0.5
    image = np.random.default_rng(0).normal(size=(*shape, 1)).astype(np.float32)
    wanted = inference.sliding_window(probabilities, image, patch, overlap=overlap, blend=blend, fill=0.0)
    windows = Windows.over(shape, patch, overlap)
    padded, found = windows.pad(image, 0.0), []
    for number, box in enumerate(windows.boxes()):
        found.append(BlockFiles(Workspace(tmp_path) / str(number), (*patch, CLASSES), np.float32))
        found[-1].write([slice(0, n) for n in (*patch, CLASSES)], probabilities(padded[box][None])[0])
    blended = Blended(windows, found, importance(patch, blend))
    assert blended.shape == wanted.shape
    for first in range(0, shape[0], 2):
        np.testing.assert_array_equal(blended[first : first + 2], wanted[first : first + 2])
    target = (17, 5, 8)
    at_once = labels_from_probabilities(wanted, target)
    parts = [labels_from_probabilities(blended, target, slice(a, a + 6)) for a in range(0, 17, 6)]
    np.testing.assert_array_equal(np.concatenate(parts), at_once)
    assert len(np.unique(at_once)) == CLASSES


def test_a_box_is_read_from_the_blocks_that_it_touches(tmp_path):
    values = np.random.default_rng(1).normal(size=(6, 5, 4, 2)).astype(np.float32)
    with shared_workspace(processes.Processes(), Workspace(tmp_path / "work")) as work:
        array = BlockFiles(work / "array", values.shape, np.float32)
        for x in (slice(0, 3), slice(3, 6)):
            array.write((x, slice(0, 5), slice(0, 4), slice(0, 2)), values[x])
        publish(processes.Processes(), "arrays", [array])
        np.testing.assert_array_equal(array[1:5, 2:3], values[1:5, 2:3])
        assert (array.bytes_written, array.bytes_read) == (values.nbytes, values[1:5, 2:3].nbytes)
        box = Part(array, (slice(2, 5), slice(1, 3), slice(0, 4)))
        assert box.shape == (3, 2, 4, 2)
        np.testing.assert_array_equal(box[1:2], values[3:4, 1:3])
        array.discard()
        assert not list((work / "array").folder.iterdir())
    assert not (tmp_path / "work").exists()


class Counting:
    """A carrier through a folder that stands for a store, which counts the bytes of arrays that go there and back."""

    def __init__(self, store):
        self.store, self.sent, self.fetched = store, [], []

    def send(self, name, path):
        (self.store / name).parent.mkdir(parents=True, exist_ok=True)
        (self.store / name).write_bytes(path.read_bytes())
        self.sent.append(np.load(path).nbytes)

    def fetch(self, name, path):
        path.write_bytes((self.store / name).read_bytes())
        self.fetched.append(np.load(path).nbytes)


def test_each_window_is_uploaded_once_and_downloaded_whole_by_whoever_needs_a_plane_of_it(tmp_path):
    """As pipelines/README.md says: in windows that overlap by half, most voxels are predicted eight times."""
    shape, patch = (16, 16, 16), (4, 4, 4)
    windows = Windows.over(shape, patch, 0.5)
    writer, reader = Counting(tmp_path / "store"), Counting(tmp_path / "store")
    ours, theirs = [], []
    for number, _ in enumerate(windows.boxes()):
        for found, carrier, name in ((ours, writer, "writer"), (theirs, reader, "reader")):
            work = Workspace(tmp_path / name, carrier) / f"scores-{number}"
            found.append(BlockFiles(work, (*patch, CLASSES), np.float32))
        ours[-1].write([slice(0, n) for n in (*patch, CLASSES)], np.full((*patch, CLASSES), number, np.float32))
        theirs[-1]._known |= ours[-1]._own
    voxels, window = 16**3, 4 * CLASSES * 4**3
    assert writer.sent == [window] * 7**3
    assert 5 < sum(writer.sent) / (4 * CLASSES * voxels) < 8
    wanted = Blended(windows, ours, importance(patch, "gaussian"))[0:3]
    blended = Blended(windows, theirs, importance(patch, "gaussian"))
    np.testing.assert_array_equal(blended[0:3], wanted)
    # Two of the seven windows along the first axis hold one of the first three planes; each is downloaded whole.
    assert reader.fetched == [window] * (2 * 7**2)
    blended[0:3]
    assert len(reader.fetched) == 2 * 7**2 and not reader.sent


def test_a_part_that_nobody_has_written_is_no_zero(tmp_path):
    array = BlockFiles(Workspace(tmp_path), (4, 4), np.uint8)
    array.write((slice(0, 2), slice(0, 4)), np.ones((2, 4)))
    with pytest.raises(FileNotFoundError, match=r"whole box \[\(1, 3\), \(0, 4\)\]\. Received: blocks of 4 of its 8"):
        array[1:3]


def test_processes_without_a_common_folder_are_told_so(tmp_path):
    """Each of two processes sees only its own block."""

    class Second(processes.Processes):
        def exchange(self, what, text):
            other = text.replace("[0, 0]", "[2, 0]") if "blocks" in what else f"{tmp_path / 'other' / '0-0.npy'}"
            return [other, text]

    array = BlockFiles(Workspace(tmp_path / "own"), (4, 4), np.uint8)
    array.write((slice(0, 2), slice(0, 4)), np.ones((2, 4)))
    with pytest.raises(RuntimeError, match=r"(?s)must have a folder in common.*process 0 does not see.*process 1"):
        publish(Second(), "arrays", [array])


class Refusing:
    """A carrier whose store has been refusing to remove anything since the first time."""

    removals = 0

    def remove(self, name):
        self.removals += 1
        if self.removals > 1:
            raise OSError("s3://bucket/shared: SlowDown")


def test_files_that_cannot_be_removed_at_the_end_cost_no_result(tmp_path):
    with (
        pytest.warns(UserWarning, match=r"s3://bucket/shared: SlowDown\. .* remain there.* remove them by hand"),
        shared_workspace(processes.Processes(), Workspace(tmp_path / "work", Refusing())),
    ):
        pass


def test_files_that_cannot_be_removed_at_the_end_do_not_hide_why_a_job_failed(tmp_path):
    with (
        pytest.warns(UserWarning, match="SlowDown"),
        pytest.raises(ValueError, match="scores are not finite"),
        shared_workspace(processes.Processes(), Workspace(tmp_path / "work", Refusing())),
    ):
        raise ValueError("scores are not finite")


def test_files_of_an_earlier_job_that_cannot_be_removed_are_an_error(tmp_path):
    carrier = Refusing()
    carrier.removals = 1
    work = shared_workspace(processes.Processes(), Workspace(tmp_path / "work", carrier))
    with pytest.raises(OSError, match="SlowDown"), work:
        pass
