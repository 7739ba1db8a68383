"""`ks.plan`: what one step of a model costs each device of a mesh."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from keras_spatial import losses
from keras_spatial.conversion import partition
from keras_spatial.distribution import SpatialParallel, check_distribution
from keras_spatial.keras_private import build_state, compilation
from keras_spatial.model import Model
from keras_spatial.own_steps import computed_whole
from keras_spatial.planning.costs import Costs, costs
from keras_spatial.planning.sizes import readable
from keras_spatial.planning.streamed import streamed_costs
from keras_spatial.runtimes.base import Runtime
from keras_spatial.runtimes.rehearsal import ProgramRehearsal, RehearsalRuntime, byte_size


@dataclass(frozen=True)
class Plan:
    """What one step costs each device. Sizes are in bytes; GB are 10⁹ bytes.

    Attributes:
        mesh: the mesh of the distribution, such as "rows:2, columns:2".
        layout: the layout of the distribution, such as "x:rows, y:columns".
        devices: the number of devices that compute.
        training: whether the step trains; otherwise it predicts.
        weights: the bytes of the model's variables.
        optimizer: the bytes of the optimizer's variables.
        activations: the most bytes that are held at once besides these two: the device's part of the images, what is
            kept for the backward pass, gradients, halos, and what the operation that is then running needs for itself.
        workspace: the part of `activations` that this operation needs for itself.
        at: the name of this operation.
        largest: the names and sizes of the largest tensors that are held at that moment.
        halo: the bytes that a device with neighbours on all sides sends to them in one step.
        allreduce: the bytes that a device puts into sums over devices in one step, for gradients of the weights,
            statistics and losses.
        flops: the number of floating-point operations that a device computes in one step.
        offload: where shards that share a device are kept: "host", or a folder; empty if each has a device of its own.
        kept: the most bytes of shards that host memory or the folder keeps at once.
        moved: the bytes of shards that are moved there and back in one step.

    If shards share devices, `activations` is what one device holds at once. For a CPU, it includes the other shards
    that are kept in its memory, and the whole images that are passed as arrays.

    TensorFlow itself, the libraries that it loads and their scratch memory (such as cuDNN's) come on top.
    """

    mesh: str
    layout: str
    devices: int
    training: bool
    weights: int
    optimizer: int
    activations: int
    workspace: int
    at: str
    largest: tuple[tuple[str, int], ...]
    halo: int
    allreduce: int
    flops: int
    offload: str = ""
    kept: int = 0
    moved: int = 0

    @property
    def memory(self) -> int:
        """The number of bytes that each device must have."""
        return self.weights + self.optimizer + self.activations

    def fits(self, memory: int) -> bool:
        """Whether a device with `memory` bytes is enough."""
        return self.memory <= memory

    def least_seconds(self, bytes_per_second: float) -> float:
        """The least time of a step that follows from the bytes that it moves to host memory or the folder and back.

        Args:
            bytes_per_second: the speed of the disk with the folder, or of the bus between host memory and the device.
        """
        return self.moved / bytes_per_second

    def explain(self, memory: int) -> str:
        """Explain why a device with `memory` bytes is or is not enough."""
        if self.fits(memory):
            return f"Fits: needs {readable(self.memory)} of {readable(memory)} per device."
        lines = [
            f"Does not fit: needs {readable(self.memory)} per device, but there are {readable(memory)}.",
            f"The most is held while {self.at} runs; the largest tensors then:",
            *(f"  {readable(size):>9}  {name}" for name, size in self.largest),
        ]
        if self.weights + self.optimizer > memory:
            lines.append("The weights and the optimizer alone are too large: splitting the image does not help.")
        return "\n".join(lines)

    def __str__(self) -> str:
        step = "training step" if self.training else "prediction"
        rows = [
            (f"one {step} per device, mesh '{self.mesh}', layout '{self.layout}'", ""),
            ("weights", readable(self.weights)),
            ("optimizer", readable(self.optimizer)),
            ("activations and gradients", readable(self.activations)),
            ("memory in all", readable(self.memory)),
            ("sent to neighbours", readable(self.halo)),
            ("all-reduced", readable(self.allreduce)),
            ("floating-point operations", f"{self.flops / 1e9:.4g} G"),
        ]
        if self.offload:
            where = "host memory" if self.offload == "host" else self.offload
            rows[5:7] = [
                ("kept outside the device", f"{readable(self.kept)} in {where}"),
                ("moved", readable(self.moved)),
            ]
        return "\n".join(f"{name:<28}{value:>12}".rstrip() for name, value in rows)


def plan(
    model: keras.Model,
    distribution: SpatialParallel,
    batch_size: int = 1,
    dtype: str | None = None,
    *,
    training: bool = True,
    input_shape: Sequence[int] | None = None,
    unsupported: str = "raise",
) -> Plan:
    """Find out what a step would cost each device, without running it and without its devices.

    The step is traced as it would be for training, but only for the device in the middle of the mesh. Its graph then
    shows what is held when.

    Args:
        model: any Keras model. Its optimizer, losses and metrics are those it was compiled with; otherwise Adam and
            `ks.losses.DiceCrossentropy`. Layers that `ks.recompute` has chosen are planned as recomputed.
        distribution: the mesh and layout. The devices need not exist:
            `ks.device_mesh("rows:16, columns:16", devices=["cpu:0"] * 256)`. With `offload`, the plan is for shards
            that share these devices, and says what is kept elsewhere and moved.
        batch_size: the number of images in a step, over all devices together.
        dtype: a Keras dtype policy such as `"mixed_float16"`, instead of the model's own.
        training: whether to plan a step of `fit`, or one of `predict`.
        input_shape: the shape of an image without the batch, for models that leave it open.
        unsupported: as for `ks.partition`; a partitioned model keeps its own choice.

    Returns:
        A `Plan`.

    Raises:
        UnsupportedLayer: a `ValueError` that names all layers that cannot be partitioned.
        ValueError: if the model leaves the size of its image open and `input_shape` does not say it.

    Example:

    ```python
    print(ks.plan(ks.models.UNet3D((256, 256, 256, 1), classes=3, levels=3), distribution))
    ```
    """
    check_distribution(distribution)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: batch_size={batch_size}")
    rehearsed = distribution.rehearsed()
    runtime = rehearsed.runtime
    if isinstance(model, Model) and model.distribution is not None and model._network.replicate:
        unsupported = "replicate"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # No warning here: one was given when the model was partitioned.
        planned = model if dtype is None else _with_dtype(model, dtype)
        spatial = partition(planned, rehearsed, input_shape, unsupported=unsupported)
    network = spatial._network

    def compile_() -> None:
        keras.Model.compile(spatial, **_compilation(model, network.output_specs))

    compile_()
    if isinstance(model, Model):
        spatial._partition.recompute = dict(model._partition.recompute)
    images = tree.map_structure(lambda x: _spec(x, batch_size, input_shape), network.input_specs)
    if training:
        outputs = network.output_specs_for(images, True)
        traced = _trace_training(spatial, compile_, images, outputs)
        optimizer = _bytes(spatial.optimizer.variables)
    else:
        traced = _trace(spatial.predict_step, (images,))
        optimizer = 0
    mesh = distribution.device_mesh
    return Plan(
        mesh=", ".join(f"{n}:{s}" for n, s in zip(mesh.axis_names, mesh.shape, strict=True)),
        layout=", ".join(f"{axis}:{name}" for axis, name in distribution.layout.items()),
        devices=len(set(runtime.devices)) if isinstance(runtime, ProgramRehearsal) else math.prod(mesh.shape),
        training=training,
        weights=_bytes(spatial.variables),
        optimizer=optimizer,
        **_activations(runtime, traced),
    )


def _activations(runtime: Runtime, traced: Any) -> dict[str, Any]:
    """What a traced step holds, computes and sends."""
    found: Costs = costs(traced.graph, traced.outputs)
    if isinstance(runtime, RehearsalRuntime):
        return {
            "activations": found.peak,
            "workspace": found.workspace,
            "at": found.at,
            "largest": found.largest,
            "halo": runtime.traffic["halo"],
            "allreduce": runtime.traffic["allreduce"],
            "flops": found.flops,
        }
    assert isinstance(runtime, ProgramRehearsal)
    on_cpu = all("gpu" not in device.lower() for device in runtime.devices)
    to_file = runtime.offload != "host"
    shards = streamed_costs(runtime.program, to_file=to_file, on_cpu=on_cpu)
    # Besides the shards: in the graph, gradients of weights and whole outputs; as arguments, whole images.
    beside = found.peak + (sum(byte_size(x) for x in traced.inputs if x.dtype != tf.resource) if on_cpu else 0)
    return {
        "activations": shards.peak + beside,
        "workspace": shards.workspace,
        "at": shards.at,
        "largest": shards.largest,
        "halo": 0,
        "allreduce": 0,
        "flops": (found.flops + shards.flops) // len(set(runtime.devices)),
        "offload": str(runtime.offload),
        "kept": shards.kept,
        "moved": shards.moved,
    }


def _trace(step, data):
    """A step's graph. The metrics and moving averages in it do not change unless it runs."""
    return tf.function(lambda *data: step(data), autograph=False).get_concrete_function(*data)


def _compilation(model: keras.Model, outputs: Any) -> dict[str, Any]:
    """The arguments with which the model was compiled, but with a new optimizer."""
    known = compilation(model)
    if known is None:
        return {"optimizer": "adam", "loss": tree.map_structure(lambda _: _loss(), outputs), "jit_compile": False}
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(model.optimizer))
    return {**known, "optimizer": optimizer, "jit_compile": False}


def _loss() -> keras.losses.Loss:
    return losses.DiceCrossentropy()


def _spec(x: keras.KerasTensor, batch_size: int, input_shape: Sequence[int] | None) -> tf.TensorSpec:
    shape = tuple(x.shape[1:]) if input_shape is None else tuple(input_shape)
    if None in shape:
        raise ValueError(
            f"The model leaves the size of its image open: pass input_shape, such as (512, 512, 512, 1). "
            f"Received: a model of input shape {x.shape}"
        )
    return tf.TensorSpec((batch_size, *shape), x.dtype)


def _trace_training(model: Model, compile_: Callable[[], None], images: Any, outputs: Any):
    """The graph of a training step, on labels of the kind that the loss takes.

    Class numbers are tried first for losses whose name says that they take them, and labels in the outputs' own shape
    for others. A user's own loss may take either, so the other kind is tried before its error is raised.
    """
    loss: Any = model.loss
    kind = loss if isinstance(loss, str) else type(tree.flatten(loss)[0]).__name__
    numbers = "sparse" in kind.lower() or hasattr(losses, kind)

    def traced(numbers: bool):
        labels = tree.map_structure(lambda x: _label(x, numbers, images), outputs)
        # TensorFlow traces a function again that has made variables.
        cast(Any, model.optimizer).build(model.trainable_variables)
        if not computed_whole(model, "train_step"):
            build_state(model, images, labels, training=True)
        return _trace(model.train_step, (images, labels))

    try:
        return traced(numbers)
    except Exception as error:
        compile_()  # Metrics that are given by name suit the labels of the first attempt.
        try:
            return traced(not numbers)
        except Exception:
            raise error from None


def _label(x: keras.KerasTensor, numbers: bool, images: Any) -> tf.TensorSpec:
    """Labels for an output: class numbers, or labels of its own shape."""
    batch, *sizes = tree.flatten(images)[0].shape
    known = [size if size is not None else sizes[i] for i, size in enumerate(x.shape[1:])]
    return tf.TensorSpec((batch, *(known[:-1] if numbers else known)), "int32" if numbers else x.dtype)


def _with_dtype(model: keras.Model, dtype: str) -> keras.Model:
    policy = keras.DTypePolicy(dtype)

    def copy(layer: keras.Layer) -> keras.Layer:
        return type(layer).from_config({**layer.get_config(), "dtype": policy})

    result = keras.models.clone_model(model, clone_function=copy)
    if model.compiled:
        result.compile(**_compilation(model, None))
    return result


def _bytes(variables: Sequence[keras.Variable]) -> int:
    return sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in variables)
