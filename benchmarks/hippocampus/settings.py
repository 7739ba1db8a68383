"""What decides the benchmark."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Settings of every fold.

    Attributes:
        folds: of the cross-validation.
        steps: training steps of a fold.
        batch_size: volumes a step.
        size: voxels that the network sees; larger volumes are cut, smaller ones padded.
        filters, levels: of the network.
        learning_rate: the highest; it rises over the first steps and falls along half a cosine.
        ema: momentum of the moving average of the weights, which is the model in the end.
        mesh, layout: of the training and of the inference.
        seed: of weights, order and augmentation.
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
