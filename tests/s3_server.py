"""A real S3-compatible server on loopback, which counts the reads from it; for fixtures of the tests."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from datasets import object_store
from datasets.origins import HEAD_BYTES


class Server:
    """What a test knows about the server.

    Attributes:
        url: its address.
        stop: a function that ends it.
        reads: how often the content of each object was asked for, by its name with the bucket's before it.
        heads: the same of its first bytes alone, of which `reads` does not tell.
        refusals: for each method of HTTP, the status and the content with which its next request is answered, once.
        forbidden: the names of the objects whose content it gives to nobody, with the bucket's before them.
    """

    def __init__(self, url: str, stop: Callable[[], None]):
        self.url, self.stop = url, stop
        self.reads: Counter[str] = Counter()
        self.heads: Counter[str] = Counter()
        self.refusals: dict[str, tuple[str, str]] = {}
        self.forbidden: set[str] = set()

    def forbid(self, url: str) -> None:
        """Give the content of the object at a URL to nobody."""
        self.forbidden.add(url.partition("://")[2])

    def below(self, location: str) -> dict[str, int]:
        """The `reads` of the objects below a URL, by their names from there."""
        root = location.partition("://")[2].rstrip("/") + "/"
        return {name.removeprefix(root): n for name, n in self.reads.items() if name.startswith(root)}


@contextmanager
def running() -> Iterator[Server]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    server = Server(f"http://{host}:{port}", moto.stop)
    assert moto._server is not None
    inner = moto._server.app

    def counting(environ, start_response):
        def answer(status, content):
            start_response(status, [("Content-Type", "application/xml")])
            return [content.encode()]

        if refusal := server.refusals.pop(environ["REQUEST_METHOD"], None):
            return answer(*refusal)
        name = environ["PATH_INFO"].encode("latin-1").decode().strip("/")
        if environ["REQUEST_METHOD"] == "GET" and "/" in name and "list-type" not in environ["QUERY_STRING"]:
            head = environ.get("HTTP_RANGE") == f"bytes=0-{HEAD_BYTES - 1}"
            (server.heads if head else server.reads)[name] += 1
            if name in server.forbidden:
                return answer("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>")
        return inner(environ, start_response)

    moto._server.app = counting
    try:
        yield server
    finally:
        moto.stop()


def bucket_of(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of an empty folder in a bucket of the server; the environment tells this process how to reach it."""
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    # A client keeps the address with which it was made, even that of another test's server.
    s3fs.S3FileSystem.clear_instance_cache()
    system = object_store.system("s3://")
    if not system.exists("bucket"):
        system.mkdir("bucket")
    server.reads.clear()
    server.forbidden.clear()
    return f"s3://bucket/{tmp_path.name}"
