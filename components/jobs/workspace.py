"""What the processes of a job give each other: in a folder that all of them see, or through an object store."""

from dataclasses import dataclass
from pathlib import Path

from components import storage
from keras_spatial.inference.block_files import Workspace


@dataclass(frozen=True)
class StoreCarrier:
    """Carries files through an object store.

    Attributes:
        location: the URL of the folder in the store.
    """

    location: str

    def send(self, name: str, path: Path) -> None:
        storage.upload(path, storage.join(self.location, name))

    def fetch(self, name: str, path: Path) -> None:
        storage.download(storage.join(self.location, name), path)

    def remove(self, name: str) -> None:
        storage.remove(storage.join(self.location, name) if name else self.location)


def workspace_of(folder: Path, shared: str) -> Workspace:
    """The workspace of a job.

    Args:
        folder: a folder, which all processes see if `shared` is empty.
        shared: the URL of a folder in an object store, or "".
    """
    return Workspace(folder, StoreCarrier(shared) if shared else None)
