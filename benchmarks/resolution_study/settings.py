"""The arms and settings of the study."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One way of training and predicting.

    Attributes:
        resolution: the number of voxels along each axis to which volumes are resampled.
        patch: the edge, in voxels, of the patches that the network sees; None if it sees the whole image.
    """

    resolution: int
    patch: int | None = None

    @property
    def name(self) -> str:
        return f"whole-{self.resolution}" if self.patch is None else f"patches-{self.patch}-of-{self.resolution}"

    @property
    def input_size(self) -> int:
        """The edge of the network's input, in voxels."""
        return self.patch or self.resolution

    @property
    def batch_size(self) -> int:
        """The number of images per update: with patches, as many as have the voxels of the whole image."""
        return 1 if self.patch is None else (self.resolution // self.patch) ** 3


@dataclass(frozen=True)
class Settings:
    """The settings of a study. All arms have the same network, updates, schedule, loss, flips, cases and seeds.

    Attributes:
        resolutions: the resolutions of whole images.
        patch: the edge, in voxels, of the patches at the highest resolution.
        native: the number of voxels along each axis of the phantoms, on whose grid everything is scored.
        train, test: the numbers of training and test cases.
        updates: the number of updates of the weights; each sees one volume, or patches with as many voxels.
        seeds: the seeds of weights, order and flips.
        filters, levels: the number of filters of the U-Net's first level, and the number of its levels.
        learning_rate: the highest learning rate of the schedule.
        partition_from: the lowest resolution at which images are sharded over a 2x2 mesh.
        difficulty: the difficulty of the phantoms.
    """

    resolutions: tuple[int, ...] = (32, 64, 96, 128)
    patch: int = 64
    native: int = 144
    train: int = 24
    test: int = 10
    updates: int = 240
    seeds: tuple[int, ...] = (0, 1, 2)
    filters: int = 8
    levels: int = 4
    learning_rate: float = 3e-3
    partition_from: int = 64
    difficulty: str = "medium"

    def __post_init__(self):
        multiple = 2 ** (self.levels - 1)
        sizes = (*self.resolutions, self.patch)
        if not self.resolutions or any(n < multiple or n % multiple for n in sizes):
            raise ValueError(
                f"expected sizes that are multiples of {multiple} ({self.levels} levels). Received: {sizes}"
            )
        if max(self.resolutions) % self.patch:
            raise ValueError(f"expected patches that tile {max(self.resolutions)}³. Received: patch={self.patch}")
        if min(self.train, self.test, self.updates, len(self.seeds)) < 1:
            raise ValueError(f"expected at least one case, update and seed. Received: {self}")

    @property
    def arms(self) -> tuple[Arm, ...]:
        return (*(Arm(n) for n in self.resolutions), Arm(max(self.resolutions), self.patch))


PRESETS = {
    "small": Settings((16, 24, 32), patch=16, native=64, train=8, test=6, updates=200, levels=3, partition_from=32),
    "medium": Settings((32, 48, 64), patch=32, native=96, train=16, test=10, updates=150, partition_from=64),
    "full": Settings(),
}
