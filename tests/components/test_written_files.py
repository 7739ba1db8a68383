"""Files are complete or absent; a log loses at most the line that was being written."""

import json
import os
from pathlib import Path

import pytest

from components import storage
from components.files import append_json, read_jsons, write_json, write_text
from components.train.history import read_epochs


def test_a_file_that_cannot_be_written_leaves_what_was(tmp_path, monkeypatch):
    path = write_json(tmp_path / "record.json", {"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "{}")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("write", [write_json, storage.write_json], ids=["of a run", "on a shared volume"])
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after_it(tmp_path, monkeypatch, write):
    """Otherwise a machine that loses power may keep the name of the file and lose its content."""
    path, synced = tmp_path / "record.json", []
    real = os.fsync

    def sync(descriptor):
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, path.exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    write(str(path), {"a": 1})
    (file, too_early), folder = synced
    assert file.startswith(".part-") and not too_early
    assert folder == (tmp_path.name, True)
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("cut", ['{"epoch": 1, "sec', '{"epoch": 1', "\x00\x00", '{"epoch": 1, "title": "\udcff'])
def test_a_log_cut_in_its_last_line_loses_that_line_alone(tmp_path, cut):
    path = tmp_path / "log.jsonl"
    append_json(path, {"epoch": 0})
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(cut)
    append_json(path, {"epoch": 2})
    append_json(path, {"epoch": 3})
    assert list(read_jsons(path)) == [{"epoch": 0}, {"epoch": 2}, {"epoch": 3}]


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert list(read_jsons(tmp_path / "log.jsonl")) == []


def test_epochs_are_read_without_lines_that_are_none(tmp_path):
    path = tmp_path / "epochs.jsonl"
    epoch = {"epoch": 0, "seconds": 1.0, "values": {"loss": 2.0}}
    for line in (epoch, {"epoch": 1}, [1], "text"):
        append_json(path, line)
    assert read_epochs(path) == [epoch]
