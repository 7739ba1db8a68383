"""Folders and files by path or URL: what goes to an object store comes back unchanged."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest
import s3fs
from folders import tree

from components import resume, storage
from components.jobs import heartbeat
from keras_spatial.launch import free_ports


def test_a_folder_comes_back_as_it_went(bucket, folder, tmp_path):
    storage.upload(folder, storage.join(bucket, "data"))
    assert tree(storage.download(storage.join(bucket, "data"), tmp_path / "back")) == tree(folder)


def test_what_lies_behind_a_link_to_a_folder_comes_back(bucket, folder, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "labelsTr").symlink_to(folder / "deep")
    storage.upload(tmp_path / "linked", storage.join(bucket, "linked"))
    back = storage.download(storage.join(bucket, "linked"), tmp_path / "back")
    assert tree(back) == {"labelsTr/er/ünï.txt": b"text"}


def test_a_file_comes_back_under_its_name(bucket, folder, tmp_path):
    url = storage.join(bucket, "volume-0.nii.gz")
    storage.upload(folder / "volume-0.nii.gz", url)
    near = storage.local(url, tmp_path / "cache")
    assert near.name == "volume-0.nii.gz"
    assert near.read_bytes() == b"0" * 1000


def test_a_path_is_used_where_it_is(folder):
    assert storage.local(str(folder)) == folder


@pytest.mark.parametrize("name", ["/tmp/{}/evil", "../evil", "deep/../../evil", "deep//evil", "./evil"])
def test_an_object_that_would_be_written_outside_of_the_folder_is_refused(bucket, folder, tmp_path, name):
    url = storage.join(bucket, "data")
    storage.upload(folder, url)
    key = f"{url.removeprefix('s3://bucket/')}/{name.format(tmp_path.name)}"
    # As anybody could who can write there; fsspec itself would clean up the name.
    boto3.client("s3").put_object(Bucket="bucket", Key=key, Body=b"evil")
    before = tree(tmp_path)
    with pytest.raises(storage.StorageError, match=r"data: expected objects .* below a folder. Received: '.*evil'"):
        storage.download(url, tmp_path / "back")
    assert tree(tmp_path) == before
    assert not Path("/tmp", tmp_path.name).exists()


def test_the_mark_of_an_empty_folder_is_no_file(bucket, folder, tmp_path):
    url = storage.join(bucket, "data")
    storage.upload(folder, url)
    for mark in ("", "deep/", "marked/"):
        boto3.client("s3").put_object(Bucket="bucket", Key=f"{url.removeprefix('s3://bucket/')}/{mark}", Body=b"")
    assert tree(storage.download(url, tmp_path / "back")) == tree(folder)


def test_what_a_process_downloads_lies_where_nobody_else_could_have_put_it(bucket, folder, tmp_path):
    """Another user could have made any folder in /tmp before, and process numbers are used again."""
    url = storage.join(bucket, "data")
    storage.upload(folder, url)
    program = (
        "import json, os, stat, sys\n"
        "from pathlib import Path\n"
        "from components import storage\n"
        "place = storage.local(sys.argv[1])\n"
        "own = Path(sys.argv[2]) / place.relative_to(sys.argv[2]).parts[0]\n"
        "names = sorted(p.name for p in place.iterdir())\n"
        "print(json.dumps([own.name, stat.S_IMODE(own.stat().st_mode), os.getpid(), names]))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program, url, str(tmp_path)]
    own, mode, number, names = json.loads(subprocess.check_output(command, env=environment))
    assert str(number) not in own and mode == 0o700
    assert names == ["deep", "empty", "volume-0.nii.gz"]
    assert not (tmp_path / own).exists(), "it is removed with the process"


def test_what_is_not_there_is_named(bucket, tmp_path):
    with pytest.raises(storage.StorageError, match=r"s3://bucket/.*/none: nothing is there"):
        storage.download(storage.join(bucket, "none"), tmp_path / "x")


def test_a_store_that_refuses_is_named(bucket, tmp_path):
    with pytest.raises(storage.StorageError, match=r"s3://no-such-bucket/x: .*Look at the address, the credentials"):
        storage.upload(__file__, "s3://no-such-bucket/x")


def test_a_store_that_cannot_be_reached_is_named_and_costs_no_job_its_heartbeat(bucket, monkeypatch, capsys):
    """Its client raises errors of its own, not OSError; the job must neither be deleted nor abandoned."""
    port = free_ports(1)[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    place = storage.join(bucket, "heartbeat")
    try:
        with pytest.raises(storage.StorageError, match=r"heartbeat: .*Could not connect"):
            storage.read_json(place)
        assert heartbeat._read(place) is None
        heartbeat.beat(place)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert "heartbeat: cannot be written" in capsys.readouterr().out


def test_an_unknown_kind_of_store_is_named():
    with pytest.raises(storage.StorageError, match=r"ssss://x: cannot be opened.*expected one of \['gcs', 'gs'"):
        storage.local("ssss://x")


def test_a_fingerprint_changes_with_content_of_the_same_size(bucket, folder):
    storage.upload(folder, storage.join(bucket, "data"))
    before = resume.fingerprint(storage.join(bucket, "data"))
    assert resume.fingerprint(storage.join(bucket, "data")) == before
    (folder / "volume-0.nii.gz").write_bytes(b"1" * 1000)
    storage.upload(folder, storage.join(bucket, "data"))
    assert resume.fingerprint(storage.join(bucket, "data")) != before


def test_json_is_absent_until_it_is_there(place):
    assert storage.read_json(storage.join(place, "record.json")) is None
    storage.write_json(storage.join(place, "record.json"), {"a": 1})
    assert storage.read_json(storage.join(place, "record.json")) == {"a": 1}
    storage.remove(place)
    storage.remove(place)
    assert storage.read_json(storage.join(place, "record.json")) is None


def test_backups_outlive_the_machine_that_wrote_them(bucket, tmp_path):
    url = storage.join(bucket, "work")
    with storage.mirrored(url, tmp_path / "first", seconds=0.05) as work:
        (work / "backup.npz").write_bytes(b"step 50")
        # The machine could be lost from here on.
        deadline = time.monotonic() + 20
        while not storage.exists(url) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert storage.download(url, tmp_path / "elsewhere").joinpath("backup.npz").read_bytes() == b"step 50"
        (work / "backup.npz").write_bytes(b"step 100")
    with storage.mirrored(url, tmp_path / "second", uploads=False) as work:
        assert (work / "backup.npz").read_bytes() == b"step 100"


def test_a_folder_that_cannot_be_written_says_what_an_administrator_has_to_change(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        storage.StorageError, match=r"cannot be written by user \d+, groups .* belongs to user .*fsGroup"
    ):
        storage.writable(tmp_path / "file" / "folder")
