"""The learning rate over a training run that ends after a number of epochs or some minutes, whichever is first."""

import math
import time

import keras


class Schedule(keras.callbacks.Callback):
    """Linear warm-up, then a half cosine down to 1 % of the peak, over epochs or over time, whichever is further on.

    A run on a slow machine that the minutes end still sees the whole schedule. The clock starts after the first step,
    which builds the graph. With `minutes` the number of steps depends on the machine, so results are reproducible only
    without it.

    Args:
        peak: highest learning rate.
        steps: of the whole training.
        minutes: end training after this time; None for no limit.
        warmup: share of the training.
    """

    def __init__(self, peak: float, steps: int, minutes: float | None = None, warmup: float = 0.05):
        super().__init__()
        self.peak, self.steps, self.minutes, self.warmup = peak, steps, minutes, warmup
        self._started: float | None = None
        self._step = 0

    @property
    def progress(self) -> float:
        """Share of the training that is over, 0 to 1."""
        share = self._step / self.steps
        if self.minutes is not None and self._started is not None:
            share = max(share, (time.monotonic() - self._started) / (60 * self.minutes))
        return min(share, 1.0)

    def on_epoch_begin(self, epoch, logs=None):
        # A resumed training begins at a later epoch.
        self._step = max(self._step, epoch * self.params["steps"])

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = rate(self.peak, self.progress, self.warmup)

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._started is None:
            self._started = time.monotonic()
        if self.progress >= 1.0:
            self.model.stop_training = True


def rate(peak: float, progress: float, warmup: float) -> float:
    """Learning rate at a share `progress` of the training."""
    if progress < warmup:
        return peak * max(progress / warmup, 0.01)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))))


class Progress(keras.callbacks.Callback):
    """One line per epoch, for logs that are read as they stream."""

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs
        self._started = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        values = ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items())
        print(f"train: epoch {epoch + 1}/{self.epochs}, {time.monotonic() - self._started:.0f} s: {values}", flush=True)
