"""Segmentation metrics that are computed from sums over the image, so that every device sums over its own shard."""

from typing import Any

import keras
from keras import ops

from keras_spatial.losses import image_axes, one_hot_labels, summed, voxel_weights


class SumsMetric(keras.metrics.Metric):
    """A metric that is a function of sums over each case's image; see `keras_spatial.losses.SumsLoss`.

    Example:

    ```python
    class LiverFraction(ks.metrics.SumsMetric):
        def __init__(self, name="liver_fraction"):
            super().__init__(name=name)
            self.total = self.add_variable(shape=(), initializer="zeros", name="total")
            self.cases = self.add_variable(shape=(), initializer="zeros", name="cases")

        def sums(self, y_true, y_pred, sample_weight):
            liver = keras.ops.cast(keras.ops.argmax(y_pred, axis=-1) >= 1, self.dtype)
            weight = 1.0 if sample_weight is None else sample_weight
            parts = [liver * weight, keras.ops.ones_like(liver) * weight]
            axes = ks.losses.image_axes(liver)
            return keras.ops.stack([ks.losses.summed(x, axes) for x in parts], axis=-1)

        def update_from_sums(self, sums):
            self.total.assign_add(keras.ops.sum(sums[:, 0] / sums[:, 1]))
            self.cases.assign_add(keras.ops.cast(keras.ops.shape(sums)[0], self.dtype))

        def result(self):
            return self.total / self.cases

    model.compile(optimizer="adam", loss=ks.losses.SoftDice(), metrics=[LiverFraction()])
    model.evaluate(images, labels)
    ```
    """

    def sums(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Compute the sums over the image axes, of shape `(batch, number of sums)`; see `SumsLoss.sums`."""
        raise NotImplementedError

    def update_from_sums(self, sums: Any) -> None:
        """Add a batch of cases to the metric's state, given their sums."""
        raise NotImplementedError

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_pred = ops.cast(ops.convert_to_tensor(y_pred), self.dtype)
        if sample_weight is not None:
            sample_weight = voxel_weights(ops.convert_to_tensor(sample_weight), y_pred)
        self.update_from_sums(self.sums(ops.convert_to_tensor(y_true), y_pred, sample_weight))


@keras.saving.register_keras_serializable("keras_spatial")
class Dice(SumsMetric):
    """The Dice coefficient of one class, between the most probable class of each voxel and the labels.

    It is `2 |P and T| / (|P| + |T|)` for the predicted voxels P and the true voxels T of the class. A case in which
    neither prediction nor labels have the class counts 1, and a case in which only one of them has it counts 0, as in
    the Liver Tumor Segmentation Benchmark (Bilic et al. 2023). If predictions have one channel, a voxel belongs to
    class 1 if its value is above 0.5.

    Args:
        class_id: the number of the class.
        or_above: whether higher classes count as this class too: LiTS's liver is class 1 or 2.
        over: `"case"` for the mean of the cases' coefficients, `"all"` for a single coefficient over all cases.
        name: the metric's name; by default `dice_<class_id>`.
        dtype: the dtype of its computation.

    Raises:
        ValueError: if `over` is anything else, or `class_id` is negative or not a class of the predictions.

    Example:

    ```python
    liver = ks.metrics.Dice(class_id=1, or_above=True, name="liver")
    model.compile(optimizer="adam", loss="mse", metrics=[liver])
    ```
    """

    def __init__(
        self, class_id: int = 1, or_above: bool = False, over: str = "case", name: str | None = None, dtype: Any = None
    ):
        if over not in ("case", "all"):
            raise ValueError(f"over must be 'case' or 'all'. Received: over={over!r}")
        if class_id < 0:
            raise ValueError(f"class_id must not be negative. Received: class_id={class_id!r}")
        super().__init__(name=name or f"dice_{class_id}", dtype=dtype)
        self.class_id = class_id
        self.or_above = or_above
        self.over = over
        self.numerator = self.add_variable(shape=(), initializer="zeros", name="numerator")
        self.denominator = self.add_variable(shape=(), initializer="zeros", name="denominator")

    def sums(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        classes = y_pred.shape[-1]
        if classes > 1:
            predicted = ops.argmax(y_pred, axis=-1)
            labels = ops.argmax(one_hot_labels(y_true, y_pred), axis=-1)
        else:
            predicted = ops.cast(y_pred[..., 0] > 0.5, "int32")
            labels = ops.cast(y_true[..., 0] if len(y_true.shape) == len(y_pred.shape) else y_true, "int32")
        if self.class_id >= max(classes, 2):
            raise ValueError(
                f"Metric '{self.name}': the predictions have {classes} channels. Received: class_id={self.class_id}"
            )
        member = ops.greater_equal if self.or_above else ops.equal
        predicted = ops.cast(member(predicted, self.class_id), self.dtype)
        labels = ops.cast(member(labels, self.class_id), self.dtype)
        if sample_weight is not None:
            predicted_counted, labels_counted = predicted * sample_weight, labels * sample_weight
        else:
            predicted_counted, labels_counted = predicted, labels
        axes = image_axes(predicted)
        both = summed(predicted * labels_counted, axes)
        size = summed(predicted_counted, axes) + summed(labels_counted, axes)
        return ops.stack([both, size], axis=-1)

    def update_from_sums(self, sums: Any) -> None:
        both, size = sums[:, 0], sums[:, 1]
        if self.over == "all":
            self.numerator.assign_add(2.0 * ops.sum(both))
            self.denominator.assign_add(ops.sum(size))
        else:
            present = size > 0
            dice = ops.where(present, 2.0 * both / ops.where(present, size, 1.0), 1.0)
            self.numerator.assign_add(ops.sum(dice))
            self.denominator.assign_add(ops.cast(ops.shape(sums)[0], self.dtype))

    def result(self):
        empty = 1.0 if self.over == "all" else 0.0
        known = self.denominator > 0
        return ops.where(known, self.numerator / ops.where(known, self.denominator, 1.0), empty)

    def get_config(self) -> dict[str, Any]:
        config = {"class_id": self.class_id, "or_above": self.or_above, "over": self.over}
        return {**super().get_config(), **config}
