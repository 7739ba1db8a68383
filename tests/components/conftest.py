"""Places for the files of steps: a bucket of an S3-compatible server, and a folder of a volume."""

import pytest


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
