"""Places for the files of steps: a bucket of a real S3-compatible server on loopback, and a folder of a volume."""

import pytest
import s3_server


@pytest.fixture(scope="module")
def server():
    with s3_server.running() as server:
        yield server


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """The URL of an empty folder in a bucket."""
    return s3_server.bucket_of(server, monkeypatch, tmp_path)


@pytest.fixture(params=["volume", "s3"])
def place(request, tmp_path):
    """A folder of a mounted volume, and the URL of one in a bucket."""
    return request.getfixturevalue("bucket") if request.param == "s3" else str(tmp_path / "volume")


@pytest.fixture
def folder(tmp_path):
    """A folder with files of different kinds."""
    path = tmp_path / "data"
    (path / "deep" / "er").mkdir(parents=True)
    (path / "volume-0.nii.gz").write_bytes(b"0" * 1000)
    (path / "deep" / "er" / "ünï.txt").write_text("text")
    (path / "empty").write_bytes(b"")
    return path
