"""The settings of the benchmark."""

from dataclasses import dataclass, field
from pathlib import Path


def faster_policy() -> str:
    """The dtype policy with which this machine's processor trains faster.

    With AMX it multiplies bfloat16 in hardware, which halves the time of a step; without AMX, float32 is faster.
    """
    information = Path("/proc/cpuinfo")
    has_amx = information.exists() and "amx_bf16" in information.read_text()
    return "mixed_bfloat16" if has_amx else "float32"


@dataclass(frozen=True)
class Settings:
    """The settings of every fold.

    Attributes:
        folds: the number of folds of the cross-validation.
        steps: the number of training steps of a fold.
        batch_size: the number of volumes per step.
        size: the size of the network's input in voxels; larger volumes are cropped, smaller ones padded.
        filters: the number of filters of each level of the network. Those below the first one are cheap, because they
            have an eighth of its voxels.
        learning_rate: the highest learning rate; it rises over the first steps and then falls along half a cosine.
        ema: the momentum of the moving average of the weights, which becomes the model.
        mesh, layout: the mesh and layout of training and inference.
        policy: Keras's dtype policy; by default the faster one on this machine, see `faster_policy`.
        flips: the axes over whose mirror images predictions are averaged.
        seed: the seed of weights, order and augmentation.
    """

    folds: int = 5
    steps: int = 2000
    batch_size: int = 2
    size: tuple[int, int, int] = (40, 56, 40)
    filters: tuple[int, ...] = (16, 48, 128)
    learning_rate: float = 3e-3
    ema: float = 0.99
    mesh: str = "rows:2, columns:2"
    layout: str = "x:rows, y:columns"
    policy: str = field(default_factory=faster_policy)
    flips: tuple[str, ...] = ("x",)
    seed: int = 0
