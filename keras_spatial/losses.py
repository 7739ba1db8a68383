"""Segmentation losses that are computed from sums over the image, so that every device sums over its own shard."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


class SumsLoss(keras.losses.Loss):
    """A loss that is a function of sums over each case's image.

    Subclasses define the sums and the function. Called as an ordinary Keras loss, it works on whole tensors of any
    backend. In a partitioned model, each device computes `sums` over its own shard, an all-reduce adds them, and
    `from_sums` computes the loss from them, so predictions are never gathered.

    Example:

    ```python
    class SquaredError(ks.losses.SumsLoss):
        def sums(self, y_true, y_pred, sample_weight):
            error = (ks.losses.one_hot_labels(y_true, y_pred) - y_pred) ** 2
            error = keras.ops.sum(error, axis=-1)
            if sample_weight is not None:
                error = error * sample_weight
            return ks.losses.summed(error, ks.losses.image_axes(error))[:, None]

        def from_sums(self, sums, voxels):
            return keras.ops.mean(sums) / voxels

    model.compile(optimizer="adam", loss=SquaredError())
    model.evaluate(images, labels)
    ```
    """

    def __init__(self, name: str | None = None, dtype: Any = None):
        super().__init__(name=name, reduction="sum", dtype=dtype)

    def sums(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Compute the sums over the image axes.

        Args:
            y_true: labels in any form that `one_hot_labels` accepts.
            y_pred: predictions of shape `(batch, x[, y[, z]], classes)`.
            sample_weight: weights per voxel of shape `(batch, x[, y[, z]])`, or None.

        Returns:
            A tensor of shape `(batch, number of sums)`.
        """
        raise NotImplementedError

    def from_sums(self, sums: Any, voxels: int) -> Any:
        """Compute the loss, a scalar, from the sums of all cases and the number of voxels in one case."""
        raise NotImplementedError

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        voxels = math.prod(y_pred.shape[1:-1])
        y_pred = ops.cast(ops.convert_to_tensor(y_pred), self.dtype)
        if sample_weight is not None:
            sample_weight = voxel_weights(ops.convert_to_tensor(sample_weight), y_pred)
        return self.from_sums(self.sums(ops.convert_to_tensor(y_true), y_pred, sample_weight), voxels)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


@keras.saving.register_keras_serializable("keras_spatial")
class Crossentropy(SumsLoss):
    """Categorical cross-entropy, weighted per class and averaged over all voxels.

    Labels are integers of shape `(batch, x, y, z)` or `(batch, x, y, z, 1)`, or one-hot.

    Args:
        class_weights: one factor per class, which multiplies the voxels whose true class it is, such as `(1, 8, 16)`
            for background, liver and lesion. By default all are 1.
        from_logits: whether predictions are logits rather than probabilities.
        name: the loss's name.
        dtype: the dtype of its computation, float32 by default.

    Raises:
        ValueError: if a weight is negative, or the number of weights is not the number of classes.

    Example:

    ```python
    loss = ks.losses.Crossentropy(class_weights=(1, 8, 16))
    loss(labels, logits)
    ```
    """

    def __init__(
        self, class_weights: Sequence[float] | None = None, from_logits: bool = True, name="crossentropy", dtype=None
    ):
        super().__init__(name=name, dtype=dtype)
        self.class_weights = check_class_weights(class_weights)
        self.from_logits = from_logits

    def sums(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        classes = y_pred.shape[-1]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(
                f"Loss '{self.name}' needs one class weight per class. Received: class_weights={self.class_weights} "
                f"for predictions of {classes} classes"
            )
        labels = one_hot_labels(y_true, y_pred)
        if self.from_logits:
            log_probabilities = ops.log_softmax(y_pred, axis=-1)
        else:
            total = ops.sum(y_pred, axis=-1, keepdims=True)
            log_probabilities = ops.log(ops.clip(y_pred / total, keras.config.epsilon(), 1.0))
        if self.class_weights is not None:
            labels = labels * ops.convert_to_tensor(self.class_weights, dtype=labels.dtype)
        entropy = -ops.sum(labels * log_probabilities, axis=-1)
        if sample_weight is not None:
            entropy = entropy * sample_weight
        return summed(entropy, image_axes(entropy))[:, None]

    def from_sums(self, sums: Any, voxels: int) -> Any:
        return ops.mean(sums[:, 0]) / voxels

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "class_weights": self.class_weights, "from_logits": self.from_logits}


@keras.saving.register_keras_serializable("keras_spatial")
class SoftDice(SumsLoss):
    """One minus the soft Dice coefficient, averaged over classes.

    For probabilities p and labels t of a class, the coefficient is `2 sum(p t) / (sum(p) + sum(t) + epsilon)`. The sums
    are over the image of one case or over all cases of the batch; `over="both"` is the mean of these two coefficients,
    as in the released code of Hou et al., arXiv 1909.03108.

    Args:
        classes: the classes that count, such as `(2,)` for lesions. By default these are all classes but the
            background, class 0; if there is only one class, it counts.
        over: `"case"`, `"batch"` or `"both"`.
        epsilon: a positive number that keeps the coefficient of an absent class finite.
        from_logits: whether predictions are logits (a softmax, or with one class a sigmoid, is applied).
        name: the loss's name.
        dtype: the dtype of its computation, float32 by default.

    Raises:
        ValueError: if `over` is none of the three, `epsilon` is not positive, or a class does not exist.

    Example:

    ```python
    loss = ks.losses.SoftDice(classes=(2,), over="case")
    loss(labels, logits)
    ```
    """

    def __init__(
        self,
        classes: Sequence[int] | None = None,
        over: str = "both",
        epsilon: float = 0.1,
        from_logits: bool = True,
        name="soft_dice",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        if over not in ("case", "batch", "both"):
            raise ValueError(f"over must be 'case', 'batch' or 'both'. Received: over={over!r}")
        if epsilon <= 0:
            raise ValueError(f"epsilon must be positive. Received: epsilon={epsilon!r}")
        self.classes = None if classes is None else tuple(classes)
        self.over = over
        self.epsilon = epsilon
        self.from_logits = from_logits

    def sums(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        labels = one_hot_labels(y_true, y_pred)
        classes = y_pred.shape[-1]
        probabilities = y_pred
        if self.from_logits:
            probabilities = ops.sigmoid(y_pred) if classes == 1 else ops.softmax(y_pred, axis=-1)
        if sample_weight is not None:
            labels = labels * sample_weight[..., None]
            probabilities_counted = probabilities * sample_weight[..., None]
        else:
            probabilities_counted = probabilities
        axes = image_axes(y_pred, channels=True)
        parts = [
            summed(labels * probabilities, axes),
            summed(labels, axes) + summed(probabilities_counted, axes),
        ]
        return ops.concatenate(parts, axis=-1)

    def from_sums(self, sums: Any, voxels: int) -> Any:
        classes = sums.shape[-1] // 2
        chosen = self.classes or (tuple(range(1, classes)) if classes > 1 else (0,))
        if max(chosen) >= classes:
            raise ValueError(f"Loss '{self.name}': the predictions have {classes} classes. Received: classes={chosen}")
        intersection = ops.stack([sums[:, c] for c in chosen], axis=-1)
        size = ops.stack([sums[:, classes + c] for c in chosen], axis=-1)
        per_case = ops.mean(2.0 * intersection / (size + self.epsilon))
        whole_batch = ops.mean(2.0 * ops.sum(intersection, axis=0) / (ops.sum(size, axis=0) + self.epsilon))
        coefficient = {"case": per_case, "batch": whole_batch, "both": (per_case + whole_batch) / 2.0}[self.over]
        return 1.0 - coefficient

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "classes": self.classes,
            "over": self.over,
            "epsilon": self.epsilon,
            "from_logits": self.from_logits,
        }


@keras.saving.register_keras_serializable("keras_spatial")
class DiceCrossentropy(SumsLoss):
    """The weighted sum of `Crossentropy` and `SoftDice`.

    The default weights are those of the released code of Hou et al., arXiv 1909.03108. With its other settings, it is
    `DiceCrossentropy(class_weights=(1, 8, 16), dice_classes=(2,))`.

    Args:
        class_weights: the class weights of the cross-entropy; see `Crossentropy`.
        dice_classes: the classes of the Dice coefficient; see `SoftDice`.
        crossentropy_weight: the factor of the cross-entropy.
        dice_weight: the factor of the Dice loss.
        over: which sums the Dice coefficient uses: `"case"`, `"batch"` or `"both"`; see `SoftDice`.
        epsilon: the smoothing term of the Dice coefficient; see `SoftDice`.
        from_logits: whether predictions are logits rather than probabilities.
        name: the loss's name.
        dtype: the dtype of its computation, float32 by default.

    Raises:
        ValueError: as `Crossentropy` and `SoftDice`.

    Example:

    ```python
    loss = ks.losses.DiceCrossentropy(class_weights=(1, 8, 16), dice_classes=(2,))
    model.compile(optimizer="adam", loss=loss)
    ```
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        dice_classes: Sequence[int] | None = None,
        crossentropy_weight: float = 0.8,
        dice_weight: float = 0.2,
        over: str = "both",
        epsilon: float = 0.1,
        from_logits: bool = True,
        name="dice_crossentropy",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.crossentropy = Crossentropy(class_weights, from_logits, dtype=dtype)
        self.dice = SoftDice(dice_classes, over, epsilon, from_logits, dtype=dtype)
        self.crossentropy_weight = crossentropy_weight
        self.dice_weight = dice_weight

    def sums(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        parts = [loss.sums(y_true, y_pred, sample_weight) for loss in (self.crossentropy, self.dice)]
        return ops.concatenate(parts, axis=-1)

    def from_sums(self, sums: Any, voxels: int) -> Any:
        crossentropy = self.crossentropy.from_sums(sums[:, :1], voxels)
        dice = self.dice.from_sums(sums[:, 1:], voxels)
        return self.crossentropy_weight * crossentropy + self.dice_weight * dice

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "class_weights": self.crossentropy.class_weights,
            "dice_classes": self.dice.classes,
            "crossentropy_weight": self.crossentropy_weight,
            "dice_weight": self.dice_weight,
            "over": self.dice.over,
            "epsilon": self.dice.epsilon,
            "from_logits": self.crossentropy.from_logits,
        }


def check_class_weights(weights: Sequence[float] | None) -> tuple[float, ...] | None:
    if weights is None:
        return None
    weights = tuple(float(w) for w in weights)
    if not weights or min(weights) < 0:
        raise ValueError(f"class_weights must be non-negative numbers, one per class. Received: {weights}")
    return weights


def one_hot_labels(y_true: Any, y_pred: Any) -> Any:
    """Labels as floats in the predictions' shape.

    Args:
        y_true: class numbers of shape `(batch, x, y, z)` or `(batch, x, y, z, 1)`, or one-hot labels.
        y_pred: predictions of shape `(batch, x, y, z, classes)`, or with fewer image axes.

    Raises:
        ValueError: if the shapes do not fit.

    Example:

    ```python
    assert ks.losses.one_hot_labels(labels, logits).shape == logits.shape
    ```
    """
    classes = y_pred.shape[-1]
    rank = len(y_pred.shape)
    shape = tuple(y_true.shape)
    if len(shape) == rank and shape[-1] == classes:
        return ops.cast(y_true, y_pred.dtype)
    if len(shape) == rank and shape[-1] == 1:
        y_true = y_true[..., 0]
    elif len(shape) != rank - 1:
        raise ValueError(
            f"Labels must be class numbers of shape (batch, x, y, z), the same with a last axis of 1, or one-hot. "
            f"Received: labels of shape {shape} for predictions of shape {tuple(y_pred.shape)}"
        )
    return ops.one_hot(ops.cast(y_true, "int32"), classes, dtype=y_pred.dtype)


def summed(x: Any, axes: Sequence[int]) -> Any:
    """The sum over some axes, one after another: TensorFlow would lose 1e-4 of a sum over millions of voxels.

    Example:

    ```python
    voxels = ks.losses.summed(keras.ops.ones((2, 64, 64, 64)), (1, 2, 3))
    assert voxels.shape == (2,)
    ```
    """
    for axis in sorted(axes, reverse=True):
        x = ops.sum(x, axis=axis)
    return x


def image_axes(x: Any, channels: bool = False) -> list[int]:
    """All axes but the first and, if `channels` says that there is a channel axis, the last.

    Example:

    ```python
    assert ks.losses.image_axes(labels) == [1, 2, 3]
    assert ks.losses.image_axes(logits, channels=True) == [1, 2, 3]
    ```
    """
    return list(range(1, len(x.shape) - (1 if channels else 0)))


def voxel_weights(sample_weight: Any, y_pred: Any) -> Any:
    """Weights per case or per voxel, in a shape that broadcasts: `(batch, 1, 1, 1)` or `(batch, x, y, z)`.

    Example:

    ```python
    per_case = keras.ops.ones(len(logits))
    assert ks.losses.voxel_weights(per_case, logits).shape == (len(logits), 1, 1, 1)
    ```
    """
    sample_weight = ops.cast(sample_weight, y_pred.dtype)
    rank = len(y_pred.shape) - 1
    if len(sample_weight.shape) == rank + 1 and sample_weight.shape[-1] == 1:
        sample_weight = sample_weight[..., 0]
    while len(sample_weight.shape) < rank:
        sample_weight = sample_weight[..., None]
    return sample_weight
