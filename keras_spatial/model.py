"""`Model`: Keras's `fit`, `evaluate` and `predict` over a mesh of devices. It holds Keras's hooks and nothing else."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import tree

from keras_spatial import keras_private, loops, saving
from keras_spatial.calls import call_whole, predicted_blocks
from keras_spatial.distribution import SpatialParallel, check_distribution, current_distribution
from keras_spatial.inputs import as_inputs, batches_of, is_concrete
from keras_spatial.keras_private import Functional, unpack_x_y_sample_weight
from keras_spatial.mesh_state import MeshState
from keras_spatial.network import Network
from keras_spatial.objective import Objective, check_compiled
from keras_spatial.own_steps import computed_whole
from keras_spatial.runtimes.functions import undifferentiated
from keras_spatial.step import Step


class Model(keras.Model):
    """A Keras model whose images are sharded over a mesh of devices.

    Make and use it like a `keras.Model`: from inputs and outputs, or by subclassing it with a `call`. Its distribution
    is the `distribution` argument, or else the `ks.SpatialParallel` that is in force when it is made; without either it
    is a plain Keras model.

    `fit`, `evaluate`, `train_on_batch` and similar methods never gather an image-sized activation on one device; only
    losses, metrics and weight gradients are combined. `predict` and `model(x)` do return whole outputs, because that is
    their purpose. `model(x)` can be differentiated under a `tf.GradientTape`. A `train_step` or `compute_loss` of your
    own gets whole outputs too, with a warning that says how much memory they take.

    Args:
        inputs, outputs, name, trainable: the arguments of `keras.Model`.
        distribution: the `ks.SpatialParallel` to use in place of the one in force.

    Raises:
        UnsupportedLayer: a `ValueError` that names all layers that cannot be partitioned.

    Example:

    ```python
    with ks.SpatialParallel(ks.device_mesh("rows:2"), "x:rows").scope():
        inputs = keras.Input((64, 64, 1))
        model = ks.Model(inputs, ks.layers.Conv2D(3, 3, padding="same")(inputs))
    ```
    """

    def __new__(cls, *args: Any, **kwargs: Any):
        if cls is Model and _is_functional(args, kwargs):
            return super().__new__(FunctionalModel)
        return super().__new__(cls)

    def __init__(self, *args: Any, distribution: SpatialParallel | None = None, **kwargs: Any):
        distribution = current_distribution() if distribution is None else check_distribution(distribution)
        self._partition = MeshState(distribution)
        super().__init__(*args, **kwargs)
        if distribution is not None:
            self._partition.network = Network(self, distribution)
            if isinstance(self, Functional):
                self._network.check(keras_private.input_structure(self))

    @property
    def distribution(self) -> SpatialParallel | None:
        """The mesh and layout over which images are sharded, or None."""
        return self._partition.distribution

    @property
    def _network(self) -> Network:
        assert self._partition.network is not None
        return self._partition.network

    @property
    def _runtime(self):
        return self._network.distribution.runtime

    @property
    def losses(self) -> list:
        return [*super().losses, *self._partition.call_losses]

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.compile`. `jit_compile` stays off, because XLA cannot compile a function that spans devices.

        Raises:
            UnsupportedObjective: a `ValueError` that names a loss or metric that cannot be computed on shards.
            ValueError: if `jit_compile` or `run_eagerly` is asked for.
        """
        if self.distribution is None:
            super().compile(*args, **kwargs)
            return
        given = loops.compile_arguments(super().compile, args, kwargs)
        with self._runtime.scope():
            super().compile(**given)
        self._runtime.check_optimizer(self.optimizer)
        # As in Keras, attributes that layers read may be set before `compile`.
        self._network.forget_graphs()
        self._partition.functions.clear()
        if not computed_whole(self, "train_step", "test_step"):
            check_compiled(self._network.outputs_for_planning, self)

    # The devices of a mesh work on the same batch, so Keras must not distribute it; nor need Keras infer any shapes.

    @property
    def distribute_strategy(self) -> tf.distribute.Strategy:
        return super().distribute_strategy if self.distribution is None else tf.distribute.get_strategy()

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if self.distribution is None:
            super()._maybe_symbolic_build(iterator, data_batch)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = args[0] if args else None
        if self.distribution is None or inputs is None or not is_concrete(inputs):
            return super().__call__(*args, **kwargs)
        training = args[1] if len(args) > 1 else kwargs.get("training")
        return call_whole(self, as_inputs(self, inputs), bool(training))

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`. Every process must call it with the same arguments; only the first writes files.

        If the standard output is not a terminal, `verbose="auto"` prints one line for each epoch instead of a bar.
        """
        return super().fit(**self._arguments("fit", super().fit, args, kwargs))

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`. Every process must call it with the same arguments."""
        return super().evaluate(**self._arguments("evaluate", super().evaluate, args, kwargs))

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.predict`. Every process must call it with the same arguments and gets the whole outputs."""
        return super().predict(**self._arguments("predict", super().predict, args, kwargs))

    def predict_blocks(self, x: Any, batch_size: int = 32) -> Iterator[Any]:
        """As `predict`, but outputs are not gathered: each process gets the shards that its own devices hold.

        Every process must call it with the same arguments and take the same number of batches from it.

        Args:
            x: arrays, `ks.LocalBlocks` of one batch, or a `tf.data.Dataset` of batches, as for `predict`.
            batch_size: images per batch if `x` is arrays.

        Yields:
            For each batch, in the structure of the model's outputs, a list of `Block`s. A block's `index` says where it
            lies in the batch's output, and `values` is an array. The lists of all processes together cover the output
            exactly once.

        Raises:
            ValueError: if the model has no mesh.

        Example:

        ```python
        import numpy as np

        stored = np.empty((1, 64, 64, 64, 3), np.float32)
        for blocks in model.predict_blocks(images, batch_size=1):
            for block in blocks:
                stored[block.index] = block.values
        ```
        """
        if self.distribution is None:
            raise ValueError(f"Model '{self.name}' has no mesh, so there are no shards to return: use predict.")
        return predicted_blocks(self, batches_of(x, batch_size))

    def takes_blocks(self, shape: Sequence[int]) -> bool:
        """Whether images of this shape can be given as `ks.LocalBlocks`, whose blocks are equal and not padded.

        Args:
            shape: the shape of one image, `(x, y, z, channels)` or `(x, y, channels)`, in voxels.

        Raises:
            ValueError: if the model has no mesh.
        """
        if self.distribution is None:
            raise ValueError(f"Model '{self.name}' has no mesh over which images could be split.")
        return self._network.takes_blocks(shape, self.input_dtype)

    def _arguments(self, mode: str, method: Any, args: tuple, kwargs: dict) -> dict[str, Any]:
        arguments = loops.named(method, args, kwargs)
        return arguments if self.distribution is None else loops.fit_arguments(self, mode, arguments)

    # Steps. Keras calls them while it traces `train_function`, `test_function` and `predict_function`.

    def train_step(self, data: Any) -> dict[str, Any]:
        if self.distribution is None or computed_whole(self, "train_step"):
            return super().train_step(data)
        x, y, sample_weight = unpack_x_y_sample_weight(data)
        variables = self.trainable_variables
        if not variables:
            raise ValueError(f"Model '{self.name}' has no trainable variables to fit.")
        step = self.step(x, training=True)
        objective = step.objective(self, y, sample_weight)
        scale = self.optimizer.scale_loss(tf.ones([], objective.loss.dtype))
        step.backward([objective.loss], [scale], variables)
        step.lower()
        regularization, extra = keras_private.weight_regularization(variables, scale)
        self._track(step, objective, regularization)
        step.apply_assignments()
        gradients = [_sum(terms) for terms in zip(step.gradients(variables), extra, strict=True)]
        with undifferentiated():
            self.optimizer.apply_gradients(zip(self._runtime.shared_gradients(gradients), variables, strict=True))
        step.apply_updates()
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        if self.distribution is None or computed_whole(self, "test_step"):
            return super().test_step(data)
        x, y, sample_weight = unpack_x_y_sample_weight(data)
        step = self.step(x, training=False)
        objective = step.objective(self, y, sample_weight)
        step.lower()
        self._track(step, objective, keras_private.weight_regularization(self.trainable_variables)[0])
        return self.get_metrics_result()

    def predict_step(self, data: Any) -> Any:
        if self.distribution is None or computed_whole(self, "predict_step"):
            return super().predict_step(data)
        x, _, _ = unpack_x_y_sample_weight(data)
        step = self.step(x, training=False)
        step.lower()
        return tree.map_structure(step.whole, step.outputs)

    def step(self, x: Any, *, training: bool, **options: Any) -> Step:
        """Run the forward pass of a step; see `keras_spatial.step.Step`."""
        options.setdefault("recompute", self._partition.recompute)
        with self._runtime.on_host():
            inputs = as_inputs(self, x)
        return Step(self._network, inputs, training=training, **options)

    def _track(self, step: Step, objective: Objective, regularization: tf.Tensor) -> None:
        """Update the metrics, including those that track the losses."""
        total = step.whole(objective.loss)
        losses = {number: step.whole(loss) for number, loss in objective.losses.items()}
        cases = tree.flatten(step.inputs)[0].shape[0]
        keras_private.update_loss_trackers(self, total + tf.cast(regularization, total.dtype), losses, cases)
        for update in objective.updates:
            update.apply([step.whole(value) for value in update.values])

    def _make_function(self, step_function):
        if self.distribution is None:
            return super()._make_function(step_function)
        return loops.over_iterator(self, step_function, "fit" if step_function == self.train_step else "evaluate")

    def make_predict_function(self, force: bool = False) -> Any:
        if self.distribution is None:
            return super().make_predict_function(force)
        if self.predict_function is None or force:
            self.predict_function = loops.over_batches(self, self.predict_step)
        return self.predict_function

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """As `keras.Model.save`. The file is that of the plain Keras model and loads with or without a mesh.

        A warning says so if plain Keras needs a class of this package to load the file.
        """
        saving.save(self, super().save, filepath, overwrite=overwrite, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.export`. It writes a model that serves on one device, without a mesh."""
        saving.export(self, super().export, filepath, *args, **kwargs)


class FunctionalModel(Model, Functional):
    """A `Model` made from inputs and outputs."""


def _sum(terms: Any) -> tf.Tensor | None:
    known = [t for t in terms if t is not None]
    return tf.add_n([tf.cast(t, known[0].dtype) for t in known]) if known else None


def _is_functional(args: tuple, kwargs: dict) -> bool:
    return len(args) >= 2 or (len(args) == 1 and "outputs" in kwargs) or ("inputs" in kwargs and "outputs" in kwargs)
