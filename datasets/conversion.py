"""Convert a case from its files to the packed blocks of the data set, which are kept on disk until they are stored.

When a build is repeated after a failure, converted cases are not converted again: the folder of a case appears under
its name only when it is complete, and it identifies the files from which it was made.
"""

import hashlib
import json
import logging
import os
import shutil
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from datasets.blocks import BlockGrid
from datasets.cases import CaseTooLargeError, ChangedCaseError, UnusableCaseError, shown, without_names
from datasets.origins import HERE, Origin
from datasets.sources import digest
from keras_spatial.data.packing import Packed, compress, table
from keras_spatial.volumes import Grid, Limits, Shape, Volume, VolumeError, resampled_affine

logger = logging.getLogger(__name__)

# The folder of the converted cases, beside the configurations of the data set.
STORE = "converted"
BLOCKS = "blocks.bin"
# A protobuf message has less than 2 GiB.
_LARGEST = (1 << 31) - (1 << 20)


class AnyCase(Protocol):
    """What the conversion needs to know about a case."""

    @property
    def name(self) -> str:
        """The case's name, which is unique in the data set and can be that of a folder."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, the label last."""
        ...

    def moved(self, move: Callable[[Path], Path]) -> Self:
        """The case with its files elsewhere."""
        ...


@dataclass(frozen=True, eq=False)
class Arrays:
    """A case on the grid of the data set.

    Attributes:
        image: the image `[X, Y, Z]` or `[X, Y, Z, channels]`, from which `network_input` makes the network's input.
        label: the class numbers, uint8 `[X, Y, Z]`.
        network_input: a function from a part of the image to the network's input, float16 `[x, y, z, channels]`. So a
            worker never holds the whole input of the network.
    """

    image: np.ndarray
    label: np.ndarray
    network_input: Callable[[np.ndarray], np.ndarray]


class Reader(Protocol):
    """How the cases of a data set are read and checked. It can be pickled, because Beam sends it to its workers."""

    @property
    def name(self) -> str:
        """A name that tells apart cases that are converted differently; empty if there is only one way."""
        ...

    def check_header(self, case: Any, limits: Limits) -> None:
        """Check the headers of a case, which takes milliseconds.

        Raises:
            VolumeError: as for `read`, if the fault is in a header.
        """
        ...

    def read(self, case: Any, limits: Limits) -> tuple[list[Volume], Volume]:
        """Read the channels and the labels of a case in canonical (RAS) order, and check every voxel.

        Raises:
            VolumeError: if the case cannot be used; its subclass says why.
        """
        ...

    def resample(self, volumes: list[Volume], labels: Volume, shape: Shape) -> Arrays:
        """Resample the case to a grid over the same field of view."""
        ...


@dataclass(frozen=True)
class Converted:
    """A converted case on disk: `facts.json`, and in `blocks.bin` the compressed blocks of the image and the label."""

    folder: Path
    facts: dict[str, Any]

    @property
    def error(self) -> tuple[str, str] | None:
        """The class name and the message of the error, if the case could not be used."""
        error = self.facts.get("error")
        return (error[0], error[1]) if error else None

    @property
    def size(self) -> int:
        """The number of bytes of the blocks."""
        return sum(map(sum, (self.facts["image"], self.facts["label"])))

    def packed(self) -> tuple[Packed, Packed]:
        """The packed image, float16 `[X, Y, Z, channels]`, and the packed label, uint8 `[X, Y, Z]`."""
        shape = tuple(self.facts["shape"])
        with (self.folder / BLOCKS).open("rb") as file:
            image, label = (table(self.facts[name]) + file.read(sum(self.facts[name])) for name in ("image", "label"))
        return Packed(image, (*shape, self.facts["channels"])), Packed(label, shape)


@dataclass(frozen=True)
class Target:
    """The form to which cases are converted, and where the results are kept.

    Attributes:
        grid: the grid of voxels.
        blocks: the blocks into which the grid is divided.
        store: the folder of the results.
        reader: the reader of the cases.
        limits: the limits that a case must keep. They are stored here, because a worker on another machine does not
            have this machine's environment.
        origin: where the files of the cases lie.
    """

    grid: Grid
    blocks: BlockGrid
    store: str
    reader: Reader
    limits: Limits = field(default_factory=Limits.current)
    origin: Origin = HERE

    @property
    def folder(self) -> Path:
        """The folder of the cases with this reader, grid and blocks."""
        return Path(self.store) / "-".join(filter(None, [self.reader.name, f"{self.grid}-blocks-{self.blocks}"]))


def convert(case: AnyCase, target: Target) -> Converted:
    """Check a case, bring it into RAS order and onto the grid, and keep its packed blocks.

    If the case cannot be used, for whatever reason, its error is kept, so that all bad cases can be reported at once
    and none of them ends the conversion of the others.

    Raises:
        OSError: if the result cannot be written.
    """
    done = find(case, target)
    if done is not None and done.error is None:
        return done
    folder = _folder(case, target)
    part = folder.with_name(f".part-{uuid.uuid4().hex}")
    part.mkdir(parents=True)
    try:
        facts: dict[str, Any] = {
            "identity": _identity(case, target.origin),
            "sources": [""] * len(case.files),
            "limits": target.limits.as_dict(),
        }
        try:
            with target.origin.near(case) as near:
                facts["sources"] = _digests(near)
                facts |= {**_blocks(near, target, part), "checksum": _checksum(facts["sources"])}
            after = _identity(case, target.origin)
            if after != facts["identity"]:
                # The error is kept with the files' current identity, so that it counts until they change again.
                facts["identity"] = after
                raise changed(case)
        except Exception as error:
            fault = _named(case, error)
            facts["error"] = [type(fault).__name__, target.origin.shown(without_names(case, str(fault)))]
        with (part / "facts.json").open("w", encoding="utf-8") as file:
            file.write(json.dumps(facts, indent=1))
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Converted(folder, facts)


def _named(case: AnyCase, error: Exception) -> VolumeError:
    if isinstance(error, VolumeError):
        return error
    if isinstance(error, MemoryError):
        return CaseTooLargeError(
            f"{shown(case.files[0])}: does not fit into this machine's memory on this grid. Choose a coarser grid, or "
            f"a machine with more memory. Received: {error}"
        )
    if isinstance(error, OSError):
        # The readers turn their errors into VolumeErrors, so this one comes from writing, and would occur in every
        # case.
        raise error
    trace = without_names(case, "".join(traceback.format_exception(error)))
    logger.error("%s failed in an unexpected way\n%s", case.name, trace)
    return UnusableCaseError(f"{shown(case.files[0])}: cannot be converted. Received: {type(error).__name__}: {error}")


def changed(case: AnyCase) -> ChangedCaseError:
    """The error for a case whose files changed while they were read."""
    return ChangedCaseError(
        f"{shown(case.files[0])}: this file, or another one of its case, was written while it was read. Build again "
        "when the case is complete."
    )


def find(case: AnyCase, target: Target) -> Converted | None:
    """The converted case; None if it is missing or damaged, or its files or the limits have changed since then."""
    folder = _folder(case, target)
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        if facts["identity"] != _identity(case, target.origin) or facts["limits"] != target.limits.as_dict():
            return None
        found = Converted(folder, facts)
        if "error" not in facts and (folder / BLOCKS).stat().st_size != found.size:
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found


def present(case: AnyCase, target: Target) -> bool:
    """Whether the case was converted, perhaps from files that have changed since."""
    return (_folder(case, target) / "facts.json").is_file()


def _folder(case: AnyCase, target: Target) -> Path:
    # This folder is removed and made again, so it must not be the folder of all cases, or one above it.
    if case.name in ("", ".", "..") or "/" in case.name:
        raise ValueError(f"case: expected the name of a folder. Received: {case.name!r}")
    return target.folder / case.name


def _identity(case: AnyCase, origin: Origin) -> list[list[int]]:
    return [origin.identity(path) for path in case.files]


def _digests(case: AnyCase) -> list[str]:
    """The digests of the files; "" for a file that cannot be read, which the reader reports."""
    found = []
    for path in case.files:
        try:
            found.append(digest(path))
        except OSError:
            found.append("")
    return found


def _checksum(sources: list[str]) -> str:
    """One digest for the images of a case: that of its only file, or a digest of its files' digests."""
    images = sources[:-1]
    return images[0] if len(images) == 1 else hashlib.sha256("".join(images).encode()).hexdigest()


def _blocks(case: AnyCase, target: Target, folder: Path) -> dict[str, Any]:
    volumes, labels = target.reader.read(case, target.limits)
    first = volumes[0]
    original = _shape(first.array)
    shape = target.grid.target_of(first, target.limits)
    facts = {
        "case": case.name,
        "shape": list(shape),
        "channels": len(volumes),
        "affine": resampled_affine(first.affine, original, shape).tolist(),
        "spacing": [s * n / m for s, n, m in zip(first.spacing, original, shape, strict=True)],
        "original_shape": list(original),
    }
    arrays = target.reader.resample(volumes, labels, shape)
    parts = list(target.blocks.slices(shape))
    with (folder / BLOCKS).open("wb") as file:
        # One block at a time: a worker holds no network input of a whole volume.
        image = [file.write(compress(arrays.network_input(arrays.image[part]))) for part in parts]
        label = [file.write(compress(arrays.label[part])) for part in parts]
        # A machine that loses power could keep the length of the file, by which it is recognised, and lose its content.
        file.flush()
        os.fsync(file.fileno())
    size = sum(image) + sum(label)
    if size > _LARGEST:
        raise CaseTooLargeError(
            f"{first.name}: expected at most {_LARGEST} compressed bytes, which is the limit of a record. Received: "
            f"{size} for {shape} voxels. Choose a coarser grid"
        )
    return {**facts, "image": image, "label": label}


def _shape(array: np.ndarray) -> Shape:
    x, y, z = array.shape
    return x, y, z
