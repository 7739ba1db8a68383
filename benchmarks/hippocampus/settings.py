"""The settings of the benchmark."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Settings of every fold.

    Attributes:
        folds: the number of folds of the cross-validation.
        steps: the number of training steps of a fold.
        batch_size: the number of volumes per step.
        size: the size of the network's input in voxels; larger volumes are cropped, smaller ones padded.
        filters, levels: the number of filters of the network's first level, and the number of its levels.
        learning_rate: the highest learning rate; it rises over the first steps and then falls along half a cosine.
        ema: the momentum of the moving average of the weights, which becomes the model.
        mesh, layout: the mesh and layout of training and inference.
        seed: the seed of weights, order and augmentation.
    """

    folds: int = 5
    steps: int = 1300
    batch_size: int = 2
    size: tuple[int, int, int] = (40, 56, 40)
    filters: int = 16
    levels: int = 3
    learning_rate: float = 3e-3
    ema: float = 0.99
    mesh: str = "rows:2, columns:2"
    layout: str = "x:rows, y:columns"
    seed: int = 0
