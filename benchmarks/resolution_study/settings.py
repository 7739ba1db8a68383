"""The arms, recipes and settings of the study."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, whatever it sees. The defaults are those of the first study, the recipe `old`.

    Attributes:
        network: `unet`, or `residual_unet` with one block at each level, which has instance normalization.
        deep_supervision: whether the coarser levels of the residual U-Net are compared with the labels, too.
        normalization: what follows each convolution of the U-Net.
        window: the Hounsfield units that become 0 and 1.
        class_weights: the weights of background, liver and lesion in the cross-entropy.
        crossentropy_weight, dice_weight: the weights of the two parts of the loss.
        flips: whether training cases are mirrored at random.
    """

    network: Literal["unet", "residual_unet"] = "unet"
    deep_supervision: bool = False
    normalization: Literal["batch", "instance"] = "batch"
    window: tuple[int, int] = (-512, 512)
    class_weights: tuple[float, float, float] = (1, 4, 8)
    crossentropy_weight: float = 0.5
    dice_weight: float = 0.5
    flips: bool = True


OLD = Recipe()
RECIPES = {
    "old": OLD,
    # Each recipe changes one thing in `old`, except that `supervised` changes one thing in `residual`, and the last two
    # change one more thing in the recipe with the narrower window.
    "instance": replace(OLD, normalization="instance"),
    "window": replace(OLD, window=(-160, 240)),
    "unweighted": replace(OLD, class_weights=(1, 1, 1)),
    "dice": replace(OLD, crossentropy_weight=0.3, dice_weight=1.0),
    "residual": replace(OLD, network="residual_unet"),
    "supervised": replace(OLD, network="residual_unet", deep_supervision=True),
    "unflipped": replace(OLD, flips=False),
    "window_instance": replace(OLD, window=(-160, 240), normalization="instance"),
    "window_weights": replace(OLD, window=(-160, 240), class_weights=(1, 4, 32)),
}


@dataclass(frozen=True)
class Arm:
    """One way of training and predicting.

    Attributes:
        resolution: the number of voxels along each axis to which volumes are resampled.
        patch: the edge, in voxels, of the patches that the network sees; None if it sees the whole image.
        recipe: the name of the recipe, one of `RECIPES`.
    """

    resolution: int
    patch: int | None = None
    recipe: str = "old"

    @property
    def name(self) -> str:
        """The name of the arm's files."""
        seen = f"whole-{self.resolution}" if self.patch is None else f"patches-{self.patch}-of-{self.resolution}"
        return f"{seen}-{self.recipe}"

    @property
    def title(self) -> str:
        """The name of the arm in tables."""
        seen = f"{self.resolution}³" if self.patch is None else f"{self.patch}³ patches of {self.resolution}³"
        return f"{seen}, {self.recipe}"

    @property
    def input_size(self) -> int:
        """The edge of the network's input, in voxels."""
        return self.patch or self.resolution

    @property
    def batch_size(self) -> int:
        """The number of images per update: with patches, as many as together have the voxels of the whole image."""
        return 1 if self.patch is None else (self.resolution // self.patch) ** 3


@dataclass(frozen=True)
class Settings:
    """The settings of a study. All arms have the same updates, schedule, cases and seeds.

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
        recipes: the names of the recipes; every image size is trained with each of them.
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
    recipes: tuple[str, ...] = ("old",)

    def __post_init__(self):
        multiple = 2 ** (self.levels - 1)
        sizes = (*self.resolutions, self.patch)
        if not self.resolutions or any(n < multiple or n % multiple for n in sizes):
            raise ValueError(
                f"expected sizes that are multiples of {multiple} ({self.levels} levels). Received: {sizes}"
            )
        if max(self.resolutions) % self.patch:
            raise ValueError(f"expected patches that tile {max(self.resolutions)}³. Received: patch={self.patch}")
        unknown = [name for name in self.recipes if name not in RECIPES]
        if unknown or not self.recipes:
            raise ValueError(f"expected recipes among {', '.join(RECIPES)}. Received: {self.recipes}")
        if min(self.train, self.test, self.updates, len(self.seeds)) < 1:
            raise ValueError(f"expected at least one case, update and seed. Received: {self}")

    @property
    def arms(self) -> tuple[Arm, ...]:
        sizes = (*((n, None) for n in self.resolutions), (max(self.resolutions), self.patch))
        return tuple(Arm(*size, recipe) for size in sizes for recipe in self.recipes)


PRESETS = {
    "small": Settings((16, 24, 32), patch=16, native=64, train=8, test=6, updates=200, levels=3, partition_from=32),
    "medium": Settings((32, 48, 64), patch=32, native=96, train=16, test=10, updates=150, partition_from=64),
    "causes": Settings((64,), patch=32, native=96, train=16, test=10, updates=240, recipes=tuple(RECIPES)),
    "full": Settings(),
}
