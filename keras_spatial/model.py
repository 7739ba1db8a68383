"""`Model`: Keras's `fit`, `evaluate` and `predict` over a mesh of devices."""

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf
from keras import tree
from keras.src.models.functional import Functional  # Not public; the one class that `Model` must share a base with.
from keras.src.trainers.data_adapters.data_adapter_utils import unpack_x_y_sample_weight

from keras_spatial import processes
from keras_spatial.arguments import batches_of, cast, fit_input, is_concrete, per_output
from keras_spatial.calls import differentiable_call, predicted_blocks, shapes_of
from keras_spatial.compiled import copy_compilation, targets
from keras_spatial.distribution import SpatialParallel
from keras_spatial.lowering.objective import update_metric
from keras_spatial.lowering.table import UnsupportedLayer
from keras_spatial.lowering.tensors import Blocks
from keras_spatial.lowering.walk import explain, trace_call, unsupported_operations
from keras_spatial.mtf.shared import unoptimized
from keras_spatial.runtimes.blocks import as_tensor
from keras_spatial.runtimes.synchronize import callbacks_without_files, synchronize
from keras_spatial.runtimes.tpu import on_replicas
from keras_spatial.step import (
    Forward,
    Lowered,
    Objective,
    fuse_for_objective,
    fuse_for_outputs,
    gradients,
    lower_objective,
    plan_blocks,
)


class Model(keras.Model):
    """A Keras model whose images are split over a mesh of devices.

    It is made and used as a `keras.Model`: from inputs and outputs, or by subclassing with a `call`. The distribution
    is the `ks.SpatialParallel` that is in force when it is made, or the `distribution` argument; without one it is a
    plain Keras model.

    `fit`, `evaluate`, `train_on_batch` and the like never put an image-sized activation together on one device; only
    losses, metrics and weight gradients are combined. `predict` and `model(x)` return whole outputs, since that is
    what they are asked for. `model(x)` can be differentiated under a `tf.GradientTape`.

    Args:
        inputs, outputs, name, trainable: as for `keras.Model`.
        distribution: a `ks.SpatialParallel`.

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
        self._partition = _Partition(distribution)
        super().__init__(*args, **kwargs)
        if distribution is not None and isinstance(self, Functional):
            check_supported(self)

    @property
    def distribution(self) -> SpatialParallel | None:
        """The mesh and layout over which images are split, or None."""
        return self._partition.distribution

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.compile`. `jit_compile` stays off: XLA compiles no function that spans devices."""
        if self.distribution is not None:
            bound = inspect.signature(keras.Model.compile).bind(self, *args, **kwargs)
            if bound.arguments.get("jit_compile", "auto") not in ("auto", False, None):
                raise ValueError("A partitioned model cannot be compiled by XLA. Received: jit_compile=True")
            if bound.arguments.get("run_eagerly"):
                raise ValueError("A partitioned model does not run eagerly. Received: run_eagerly=True")
            kwargs = {**{k: v for k, v in bound.arguments.items() if k != "self"}, "jit_compile": False}
            args = ()
        with self._strategy_scope():
            super().compile(*args, **kwargs)
        made_under = getattr(self.optimizer, "_distribution_strategy", None)
        if self._strategy is not None and made_under is not self._strategy:
            raise ValueError(
                "The optimizer of a model on TPUs is made inside distribution.scope(), or by its name. "
                f"Received: {self.optimizer!r}"
            )

    # TPUs: see `keras_spatial.runtimes.tpu`.

    @property
    def _strategy(self) -> tf.distribute.Strategy | None:
        return None if self.distribution is None else self.distribution.strategy

    def _strategy_scope(self):
        return contextlib.nullcontext() if self._strategy is None else self._strategy.scope()

    @property
    def distribute_strategy(self) -> tf.distribute.Strategy:
        """What Keras hands data out by. A mesh's replicas share each batch, so Keras must leave it whole."""
        return super().distribute_strategy if self.distribution is None else tf.distribute.get_strategy()

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if self.distribution is None:
            super()._maybe_symbolic_build(iterator, data_batch)

    def _build_under_strategy(self, data: Any, training: bool) -> None:
        """Make the variables of the optimizer and the metrics, which a step on TPUs cannot make."""
        x, y, _ = unpack_x_y_sample_weight(data)
        inputs = self._as_inputs(x)
        batch = tree.flatten(inputs)[0].shape[0]
        graph = self._graph(inputs, training)
        outputs = tree.map_structure(lambda o: keras.KerasTensor((batch, *o.shape[1:]), o.dtype), graph.output)
        with self._strategy_scope():
            if training and not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
            targets(self, per_output(y, outputs), outputs)

    def _compiled_step(self, step_function):
        """A step as one TensorFlow function; on TPUs, of all replicas."""
        if self._strategy is not None:
            return on_replicas(self._strategy, step_function)
        return self._autoconvert_optionals(tf.function(step_function, autograph=False))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = args[0] if args else None
        if self.distribution is None or inputs is None or not is_concrete(inputs):
            return super().__call__(*args, **kwargs)
        training = args[1] if len(args) > 1 else kwargs.get("training")
        return self._call_partitioned(self._as_inputs(inputs), bool(training))

    # Many processes: see `keras_spatial.processes`.

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`. Of many processes all call it alike; the first one writes progress and files."""
        return super().fit(**self._in_step(keras.Model.fit, args, kwargs))

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, in all processes alike."""
        return super().evaluate(**self._in_step(keras.Model.evaluate, args, kwargs))

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.predict`, in all processes alike: each gets the whole outputs."""
        return super().predict(**self._in_step(keras.Model.predict, args, kwargs))

    def predict_blocks(self, x: Any, batch_size: int = 32) -> Iterator[Any]:
        """As `predict`, but no output is put together: each process gets what its own devices hold.

        All processes call it alike, and take as many batches from it.

        Args:
            x: arrays, `ks.LocalBlocks` of one batch, or a `tf.data.Dataset` of batches, as for `predict`.
            batch_size: for arrays.

        Yields:
            For each batch, in the structure of the model's outputs, a list of `Block`s: `index`, where it lies in the
            batch's output, and `values`. Together the lists of all processes cover the output once.

        Raises:
            ValueError: if the model has no mesh.
        """
        if self.distribution is None or self._strategy is not None:
            raise ValueError(
                f"Model '{self.name}' has no mesh of CPUs or GPUs, whose blocks it could give: use predict."
            )
        return predicted_blocks(self, batches_of(x, batch_size))

    def _in_step(self, method, args: tuple, kwargs: dict) -> dict:
        """The arguments of `fit` and the like in this process."""
        arguments = dict(inspect.signature(method).bind(self, *args, **kwargs).arguments)
        arguments |= arguments.pop("kwargs", {})
        del arguments["self"]
        job = processes.current()
        if self.distribution is None or job.count == 1:
            return arguments
        if not job.is_first:
            arguments["verbose"] = 0
            arguments["callbacks"] = callbacks_without_files(arguments.get("callbacks"))
        return arguments

    def _synchronize(self) -> None:
        """Before anything is computed: the processes must hold the same model, and get the first one's weights."""
        job = processes.current()
        if job.count > 1 and not self._partition.synchronized:
            synchronize(self, job)
        self._partition.synchronized = True

    def _synchronize_early(self) -> None:
        """As `_synchronize`, before there are data; not for a model that its first data will build."""
        if all(layer.built for layer in self._flatten_layers()):
            self._synchronize()

    def _prepare(self, data, training: bool) -> None:
        """Before the first step: a model that is built by its data is built, and then all processes' alike."""
        if not self._partition.synchronized:
            x, _, _ = unpack_x_y_sample_weight(data)
            self._graph(self._as_inputs(x), training)
            self._synchronize()
        if self._strategy is not None and self.compiled and unpack_x_y_sample_weight(data)[1] is not None:
            self._build_under_strategy(data, training)

    # Steps. Keras calls them while it traces `train_function` and the like.

    def train_step(self, data: Any) -> dict[str, Any]:
        if self.distribution is None:
            return super().train_step(data)
        x, y, sample_weight = unpack_x_y_sample_weight(data)
        forward, objective = self._objective(x, y, sample_weight, training=True)
        variables = self.trainable_variables
        if not variables:
            raise ValueError(f"Model '{self.name}' has no trainable variables to fit.")
        scale = self.optimizer.scale_loss(tf.ones([]))
        weight_gradients, _ = gradients(
            forward.trace, [objective.loss], [scale], variables, recompute=self._partition.recompute
        )
        lowered = Lowered(forward.trace)
        regularization, extra = self._regularization(variables)
        self._track(lowered, objective, regularization, forward)
        known = [(g, v) for g, v in zip(weight_gradients, variables, strict=True) if g is not None]
        exported = iter(lowered.export_all([g for g, _ in known], [v.shape for _, v in known]))
        values = []
        for gradient, more in zip(weight_gradients, extra, strict=True):
            terms = [] if gradient is None else [next(exported)]
            terms += [] if more is None else [tf.cast(scale, more.dtype) * more]
            values.append(tf.add_n(terms) if terms else None)
        if self._strategy is not None:
            # The mesh has summed the gradients already, and Keras sums them over the replicas once more.
            values = [None if v is None else v / self._strategy.num_replicas_in_sync for v in values]
        self.optimizer.apply_gradients(zip(values, variables, strict=True))
        lowered.apply_updates()
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, Any]:
        if self.distribution is None:
            return super().test_step(data)
        x, y, sample_weight = unpack_x_y_sample_weight(data)
        forward, objective = self._objective(x, y, sample_weight, training=False)
        lowered = Lowered(forward.trace)
        regularization, _ = self._regularization([])
        self._track(lowered, objective, regularization, forward)
        return self.get_metrics_result()

    def predict_step(self, data: Any) -> Any:
        if self.distribution is None:
            return super().predict_step(data)
        x, _, _ = unpack_x_y_sample_weight(data)
        forward = self._forward(self._as_inputs(x), training=False)
        fuse_for_outputs(forward)
        return tree.map_structure(Lowered(forward.trace).whole, forward.outputs)

    def _make_function(self, step_function):
        if self.distribution is None:
            return super()._make_function(step_function)
        self._synchronize_early()
        # Keras traces one function over an iterator, where a last, smaller batch makes the batch size unknown. Blocks
        # have static sizes: one trace per batch size.
        step = self._compiled_step(step_function)
        training = step_function == self.train_step

        def run(iterator):
            logs = None
            for _ in range(self.steps_per_execution):
                try:
                    data = next(iterator)
                except (StopIteration, tf.errors.OutOfRangeError):
                    break
                if training and self._partition.skip:
                    self._partition.skip -= 1
                    logs = {}
                else:
                    self._prepare(data, training)
                    with unoptimized():
                        logs = step(data)
            if logs is None:
                raise StopIteration
            return logs

        return run

    def make_predict_function(self, force: bool = False) -> Any:
        if self.distribution is None:
            return super().make_predict_function(force)
        if self.predict_function is None or force:
            self._synchronize_early()
            step = self._compiled_step(self.predict_step)

            def run(batches):
                self._prepare(batches[0], training=False)
                with unoptimized():
                    outputs = [step(batch) for batch in batches]
                return tree.map_structure(lambda *parts: tf.concat(parts, 0), *outputs) if outputs[1:] else outputs[0]

            self.predict_function = run
        return self.predict_function

    def _objective(self, x, y, sample_weight, *, training: bool) -> tuple[Forward, Objective]:
        forward = self._forward(self._as_inputs(x), training=training)
        labels = per_output(y, forward.outputs)
        weights = per_output(sample_weight, forward.outputs, repeat=True)
        objective = lower_objective(forward, targets(self, labels, forward.outputs), labels, weights)
        fuse_for_objective(forward, objective)
        return forward, objective

    def _track(self, lowered: Lowered, objective: Objective, regularization: tf.Tensor, forward: Forward) -> None:
        """Update the metrics, the losses among them."""
        cases = forward.flat_outputs[0].shape[0]
        self._loss_tracker.update_state(lowered.whole(objective.loss) + regularization, sample_weight=cases)
        for tracker, loss in zip(self._compile_loss.metrics, objective.losses, strict=False):
            tracker.update_state(lowered.whole(loss), sample_weight=cases)
        for metric, increments in objective.increments:
            update_metric(metric, [lowered.whole(increment) for increment in increments])

    def _regularization(self, variables) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """The layers' regularization losses, which depend on the weights alone, and their gradients."""
        values = [v.value for v in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses = self.losses
            total = tf.add_n([tf.cast(loss, tf.float32) for loss in losses]) if losses else tf.zeros([])
        if not losses or not variables:
            return total, [None] * len(variables)
        return total, list(tape.gradient(total, values))  # pyright: ignore[reportReturnType]

    # The forward pass by itself.

    def _forward(self, inputs, *, training: bool, **options) -> Forward:
        graph, blocks = self._graph(inputs, training), self._plan(inputs, training)
        return Forward(graph, self.distribution, inputs, training=training, blocks=blocks, **options)

    def _plan(self, inputs, training: bool) -> dict[str, Blocks]:
        known = self._partition.blocks
        key = (training, shapes_of(inputs))
        if key not in known:
            known[key] = plan_blocks(self._graph(inputs, training), self.distribution, inputs, training)
        return known[key]

    def _graph(self, inputs, training: bool) -> keras.Model:
        if isinstance(self, Functional):
            return self
        graphs = self._partition.graphs
        if training not in graphs:
            graph = trace_call(self, inputs, training)
            check_supported(graph)
            graphs[training] = graph
        return graphs[training]

    def _call_partitioned(self, inputs, training: bool):
        self._graph(inputs, training)
        if tf.executing_eagerly():
            self._synchronize()
        functions = self._partition.functions
        if training not in functions:
            functions[training] = tf.function(
                lambda inputs: differentiable_call(self, inputs, training), autograph=False
            )
        with unoptimized():
            return functions[training](inputs)

    def _as_inputs(self, x):
        """Inputs as tensors of static shape and the model's dtype, in the structure of the model's inputs."""
        tensors = tree.map_structure(as_tensor, x)
        if isinstance(self, Functional):
            flat = tree.flatten(tensors)
            references = tree.flatten(self._inputs_struct)
            if isinstance(tensors, dict) and isinstance(self._inputs_struct, dict):
                flat = [tensors[name] for name in sorted(self._inputs_struct)]
            if len(flat) != len(references):
                raise ValueError(f"Model '{self.name}' takes {len(references)} inputs. Received: {len(flat)} tensors")
            flat = [fit_input(value, reference, self.name) for value, reference in zip(flat, references, strict=True)]
            return tree.pack_sequence_as(self._inputs_struct, flat)
        return tree.map_structure(lambda t: cast(t, self.input_dtype) if t.dtype.is_floating else t, tensors)

    # Saving.

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """As `keras.Model.save`. The file is that of a plain Keras model, and loads with and without a mesh."""
        if isinstance(self, Functional):
            plain(self).save(filepath, overwrite=overwrite, **kwargs)
        else:
            super().save(filepath, overwrite=overwrite, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.export`: a model for serving on one device, without a mesh.

        Raises:
            ValueError: if the model is subclassed; export the plain Keras model that it was made from.
        """
        if self.distribution is None:
            return super().export(filepath, *args, **kwargs)
        if not isinstance(self, Functional):
            raise ValueError(
                f"A subclassed partitioned model is not exported. Make '{self.name}' without a distribution, load its "
                "weights and export that."
            )
        return plain(self).export(filepath, *args, **kwargs)


class FunctionalModel(Model, Functional):
    """A `Model` made from inputs and outputs."""


@dataclass
class _Partition:
    """What a model knows of its mesh. Keras does not track it, so its graphs add no layers to the model."""

    distribution: SpatialParallel | None
    synchronized: bool = False
    skip: int = 0  # Steps of `fit` that a restored run has done already: their batches are read and dropped.
    graphs: dict[bool, keras.Model] = field(default_factory=dict)
    blocks: dict[Any, dict[str, Blocks]] = field(default_factory=dict)
    functions: dict[bool, Any] = field(default_factory=dict)
    recompute: dict[str, int] = field(default_factory=dict)  # See `ks.recompute`.


def plain(model: keras.Model) -> keras.Model:
    """The plain Keras model that shares a functional model's layers, variables and optimizer."""
    result = Functional(model._inputs_struct, model._outputs_struct, name=model.name, trainable=model.trainable)
    copy_compilation(model, result)
    return result


def check_supported(graph: keras.Model) -> None:
    """Raise `UnsupportedLayer` if a functional model holds layers without a lowering."""
    unsupported = unsupported_operations(graph)
    if unsupported:
        raise UnsupportedLayer(explain(unsupported))


def check_distribution(distribution: Any) -> SpatialParallel:
    if not isinstance(distribution, SpatialParallel):
        raise ValueError(f"distribution must be a ks.SpatialParallel. Received: {distribution!r}")
    return distribution


def current_distribution() -> SpatialParallel | None:
    current = keras.distribution.distribution()
    return current if isinstance(current, SpatialParallel) else None


def _is_functional(args: tuple, kwargs: dict) -> bool:
    return len(args) >= 2 or (len(args) == 1 and "outputs" in kwargs) or ("inputs" in kwargs and "outputs" in kwargs)
