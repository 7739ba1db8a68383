"""Slices with outlines of truth and prediction, in TensorBoard beside Keras's scalars; needs the `medical` extra."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from keras_spatial import plot


class SliceImages(keras.callbacks.Callback):
    """Writes, every few epochs, three slices of a few cases with outlines of truth and prediction.

    `keras.callbacks.TensorBoard` writes the scalars; give both the same folder. If the model has several outputs, the
    first is shown.

    Args:
        log_dir: TensorBoard's folder; the images go to the folder `images` in it, beside `train` and `validation`.
        images: float32 images of shape `[cases, x, y, z, channels]`, preprocessed as the network expects them. Give
            only a few, because all of them are predicted each time.
        labels: integer labels of shape `[cases, x, y, z]`.
        every: the number of epochs from one writing to the next; the last epoch of a training is always written.
        spacing: the voxel size along x, y and z in mm, which gives the pictures their proportions.

    Raises:
        ValueError: if shapes differ or `every` is below 1.

    Example:

    ```python
    from keras_spatial.tensorboard import SliceImages

    board = keras.callbacks.TensorBoard("logs")
    callbacks = [board, SliceImages("logs", images, labels, every=10)]
    ```
    """

    def __init__(
        self,
        log_dir: str | Path,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        every: int = 1,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
    ):
        super().__init__()
        if images.ndim != 5 or images.shape[:-1] != labels.shape:
            raise ValueError(
                f"expected images [cases, x, y, z, channels] and labels [cases, x, y, z]. "
                f"Received: {images.shape} and {labels.shape}"
            )
        if every < 1:
            raise ValueError(f"every: expected 1 or more epochs. Received: {every}")
        self._folder = Path(log_dir) / "images"
        self._images, self._labels = images, labels
        self._every, self._spacing = every, tuple(spacing)
        self._written = self._epoch = -1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch
        if (epoch + 1) % self._every == 0:
            self._write(epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._epoch > self._written:
            self._write(self._epoch)

    def _write(self, epoch: int) -> None:
        assert self.model is not None
        with tf.summary.create_file_writer(str(self._folder)).as_default():
            for number, (image, label) in enumerate(zip(self._images, self._labels, strict=True)):
                # One at a time, because only the training knows which batch size fits into memory.
                outputs = self.model.predict(image[None], verbose=0)  # pyright: ignore[reportArgumentType]
                scores = np.asarray(keras.tree.flatten(outputs)[0])
                # Only the first channel is drawn.
                figure = plot.slices(image[..., 0], label, scores[0].argmax(axis=-1), spacing=self._spacing)
                tf.summary.image(f"case {number}", _pixels(figure)[None], step=epoch)
        self._written = epoch


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
