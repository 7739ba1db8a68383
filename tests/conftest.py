"""Tests run in a process with sixteen logical CPU devices, which is enough for every mesh of the tests."""

import gc

import pytest

import keras_spatial as ks

ks.device_mesh("devices:16")


@pytest.fixture(scope="module", autouse=True)
def _collected():
    """TensorFlow keeps every graph that a process has made; later searches for garbage need not visit them all."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def server():
    """A real S3-compatible server on loopback."""
    import s3_server  # Only for the tests that use it: the import takes seconds.

    with s3_server.running() as server:
        yield server


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """The URL of an empty folder in a bucket of the server."""
    import s3_server

    return s3_server.bucket_of(server, monkeypatch, tmp_path)
