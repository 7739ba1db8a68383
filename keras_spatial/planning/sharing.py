"""Cut an image into as many shards as the memory of the given devices requires, and decide where shards wait."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras

from keras_spatial.distribution import SpatialParallel
from keras_spatial.mesh import device_mesh
from keras_spatial.planning.plan import Plan, plan
from keras_spatial.planning.search import NothingFits, even_mesh
from keras_spatial.planning.sizes import readable


@dataclass(frozen=True)
class Room:
    """The memory of the given devices, and where shards can wait.

    Attributes:
        memory: the bytes of one device.
        devices: the names of the devices. On CPUs, shards that wait in host memory use the devices' own memory.
        host: the bytes of host memory in which shards of GPUs may wait.
        folder: the folder in which a file with shards may be made, or None.
        disk: the largest size of that file in bytes.

    Example:

    ```python
    disk = ks.planning.free_space("scratch")
    host = ks.planning.host_memory()
    room = ks.planning.Room(16 * 10**9, ["gpu:0"], host, folder="scratch", disk=disk)
    ```
    """

    memory: int
    devices: Sequence[str]
    host: int
    folder: str | os.PathLike | None = None
    disk: int = 0

    @property
    def on_gpu(self) -> bool:
        return any("gpu" in device.lower() for device in self.devices)


@dataclass(frozen=True)
class Shards:
    """How an image is cut.

    Attributes:
        distribution: the mesh, its layout, and where shards wait.
        recomputed: whether layers are computed again in the backward pass.
        plan: the plan of a step.
    """

    distribution: SpatialParallel
    recomputed: bool
    plan: Plan


def host_memory() -> int:
    """The size of this machine's memory in bytes.

    Example:

    ```python
    print(ks.planning.readable(ks.planning.host_memory()))
    ```
    """
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_space(folder: str | os.PathLike) -> int:
    """The free bytes in a folder, which need not exist yet.

    Example:

    ```python
    print(ks.planning.readable(ks.planning.free_space("scratch")))
    ```
    """
    path = Path(folder).resolve()
    existing = next(p for p in (path, *path.parents) if p.exists())
    return shutil.disk_usage(existing).free


def smallest_sharing(
    model: keras.Model,
    room: Room,
    recomputed_plan: Callable[[SpatialParallel], Plan] | None = None,
    *,
    most_shards: int = 256,
    batch_size: int = 1,
    dtype: str | None = None,
    training: bool = True,
    input_shape: Sequence[int] | None = None,
    unsupported: str = "raise",
) -> Shards:
    """The fewest shards with which a step fits: 1, 2, 4, 8 ... of them, with the image split evenly.

    Shards of GPUs wait in host memory if there is room, else in a file; shards of CPUs wait in a file if a folder is
    given. If there is no room for what a training step keeps, layers are recomputed.

    Args:
        model: any Keras model.
        room: the available memory and disk space.
        recomputed_plan: a function that plans a training step in which layers are computed again; without it, no layers
            are.
        most_shards: the most shards to try.
        batch_size, dtype, training, input_shape, unsupported: as for `ks.plan`.

    Raises:
        NothingFits: if even the most shards are too large, or there is no room for the waiting shards; the message says
            which, and by how much.

    Example:

    ```python
    room = ks.planning.Room(2 * 10**9, ["gpu:0"], host=64 * 10**9)
    model = ks.models.UNet3D((128, 128, 128, 1), classes=3, levels=2)
    shards = ks.planning.smallest_sharing(model, room)
    print(shards.distribution, shards.plan)
    ```
    """
    options = {
        "batch_size": batch_size,
        "dtype": dtype,
        "training": training,
        "input_shape": input_shape,
        "unsupported": unsupported,
    }
    rank = len(model.inputs[0].shape) - 2
    alone = SpatialParallel(device_mesh("rows:1", devices=list(room.devices[:1])), "x:rows")
    found = plan(model, alone, **options)
    if found.fits(room.memory):
        return Shards(alone, False, found)
    if found.weights + found.optimizer > room.memory:
        raise NothingFits(found.explain(room.memory))
    count, held = 1, found.activations
    while count < most_shards:
        count *= 2
        if count * room.memory < held / 4:
            continue  # Far too few: in all, shards hold at least as much as fewer larger ones.
        distribution = _distribution(count, rank, room)
        found = plan(model, distribution, **options)
        if not found.fits(room.memory):
            held = max(held, count * found.activations)
            continue
        place = _place(found, room)
        if place is not None:
            return _shards(found, count, rank, room, place, recomputed=False)
        if recomputed_plan is not None and training:
            again = recomputed_plan(distribution)
            place = _place(again, room)
            if again.fits(room.memory) and place is not None:
                return _shards(again, count, rank, room, place, recomputed=True)
            found = min(found, again, key=lambda p: p.kept)
        raise NothingFits(_no_room(found, room))
    raise NothingFits(f"Even {most_shards} shards of the image are too large.\n{found.explain(room.memory)}")


def _distribution(count: int, rank: int, room: Room, place: str | os.PathLike | None = None) -> SpatialParallel:
    shape, layout = even_mesh(count, rank)
    if place is None:
        place = "host" if room.on_gpu or room.folder is None else room.folder
    return SpatialParallel(device_mesh(shape, devices=list(room.devices[:count])), layout, offload=place)


def _shards(found: Plan, count: int, rank: int, room: Room, place: str | os.PathLike, *, recomputed: bool) -> Shards:
    """The result for a plan and the place where shards wait. The plan moves as much to any place."""
    planned = dataclasses.replace(found, offload=str(place))
    return Shards(_distribution(count, rank, room, place), recomputed, planned)


def _place(found: Plan, room: Room) -> str | os.PathLike | None:
    """The place with room for the waiting shards; None if there is none."""
    if room.on_gpu and found.kept <= room.host:
        return "host"
    if room.folder is not None:
        return room.folder if found.kept <= room.disk else None
    return None if room.on_gpu else "host"


def _no_room(found: Plan, room: Room) -> str:
    places = [f"{readable(room.host)} of host memory"] if room.on_gpu else []
    if room.folder is not None:
        places.append(f"{readable(room.disk)} in {os.fspath(room.folder)}")
    return (
        f"A device holds {found.mesh!r} one shard after another, but {readable(found.kept)} of shards wait meanwhile, "
        f"and there are {' and '.join(places)}. Pass a folder with more room as offload, or use a smaller image."
    )
