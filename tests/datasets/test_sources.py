"""Files are known by their digests, which are computed again only when a file may have changed."""

import os
import time

import pytest

from datasets.locking import BuildInProgressError, exclusive
from datasets.sources import Digests, digest, identity


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "labels.nii"
    path.write_bytes(b"one")
    return path


def settle(monkeypatch, seconds=10):
    """Make the files so old that their times show whether they have changed."""
    later = time.time_ns() + seconds * 1_000_000_000
    monkeypatch.setattr("datasets.sources.time.time_ns", lambda: later)


def test_a_digest_is_computed_once_and_kept_from_run_to_run(file, tmp_path, monkeypatch):
    settle(monkeypatch)
    first = Digests(tmp_path / "cache.json")
    assert first[file] == digest(file)
    assert first[file] == digest(file)
    first.save()
    again = Digests(tmp_path / "cache.json")
    assert again[file] == digest(file)
    assert (first.computed, again.computed) == (1, 0)


def set_times_back(path, before):
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_another(path, before):
    other = path.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [lambda p, _: p.write_bytes(b"two"), set_times_back, replace_by_another])
def test_an_edit_of_the_same_size_is_seen_even_if_its_time_is_set_back(file, tmp_path, monkeypatch, change):
    settle(monkeypatch)
    digests = Digests(tmp_path / "cache.json")
    before, times = digests[file], file.stat()
    time.sleep(0.02)  # The clock of a file system ticks every few milliseconds.
    change(file, times)
    assert digests[file] == digest(file) != before
    assert digests.computed == 2


def test_a_file_that_has_just_been_written_is_not_trusted_by_its_times(file, tmp_path):
    digests = Digests(tmp_path / "cache.json")
    assert digests[file]
    assert digests[file]
    assert digests.computed == 2


def test_a_missing_file_has_no_digest(tmp_path):
    assert Digests(tmp_path / "cache.json")[tmp_path / "nothing"] == ""
    assert identity(tmp_path / "nothing") == [-1]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": [1, 2]}', "[" * 100_000, "\xff"])
def test_a_damaged_cache_is_no_cache(file, tmp_path, text):
    (tmp_path / "cache.json").write_bytes(text.encode("latin1"))
    assert Digests(tmp_path / "cache.json")[file] == digest(file)


def test_a_second_builder_is_refused_until_the_first_has_finished(tmp_path):
    with (
        exclusive(tmp_path / "data" / ".lock"),
        pytest.raises(BuildInProgressError, match=f"another process is building .* held by process {os.getpid()} of "),
        exclusive(tmp_path / "data" / ".lock"),
    ):
        pass
    with exclusive(tmp_path / "data" / ".lock"):
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"), exclusive(tmp_path / ".lock"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
