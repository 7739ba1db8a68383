"""What the processes of a job give each other through an object store."""

import pytest

from components import storage
from components.jobs.workspace import StoreCarrier


@pytest.mark.parametrize(
    "status, code",
    [("503 Slow Down", "SlowDown"), ("500 Internal Server Error", "InternalError")],
    ids=str,
)
def test_a_request_that_a_store_refuses_for_a_moment_fails_no_process(bucket, server, tmp_path, status, code):
    """Each kind of request is refused once; the client of the store tries again."""
    carrier = StoreCarrier(storage.join(bucket, "shared"))
    (tmp_path / "block.npy").write_bytes(b"block")
    steps = {
        ("PUT",): lambda: carrier.send("scores/block.npy", tmp_path / "block.npy"),
        ("GET", "HEAD"): lambda: carrier.fetch("scores/block.npy", tmp_path / "copy.npy"),
        ("POST", "HEAD"): lambda: carrier.remove("scores/block.npy"),
    }
    for methods, request in steps.items():
        server.refusals.update(dict.fromkeys(methods, (status, f"<Error><Code>{code}</Code></Error>")))
        request()
        assert not server.refusals
    assert (tmp_path / "copy.npy").read_bytes() == b"block"
    assert not storage.exists(carrier.location)
