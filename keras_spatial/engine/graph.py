"""The Mesh-TF graph of one step while it is built: inputs, weights and local operations on shards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from keras_spatial import keras_private
from keras_spatial.engine.edges import Edge
from keras_spatial.engine.local import LocalOperation, Source
from keras_spatial.engine.tensors import SpatialTensor, axis_names, dimension_of, mesh_shape_of
from keras_spatial.layout import Axis, ShardLength
from keras_spatial.mesh_tensorflow import mtf
from keras_spatial.runtimes.blocks import LocalBlocks
from keras_spatial.runtimes.functions import static_sizes

# A function from the value of a variable and a tensor to the variable's new value.
Blend = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass
class Graph:
    """Builds the Mesh-TF graph of one step. Rules see it as a `Trace`, which adds the kinds of operation.

    Attributes:
        distribution: the `SpatialParallel` in force.
        training: whether layers run in training mode.
        shard_lengths: the shard length of each image axis of the model's input.
        weight_values: values to use in place of variables, keyed by the variables' `id`; other variables are read.
        planning: whether the walk only looks for shards that fit; no variable is changed then.
        channels_first: whether the model's images have their channels before the image axes.
        updates: variables that are assigned when the step is done (batch-norm statistics), each with a tensor and the
            function of the variable's value and that tensor which gives its new value.
        assignments: variables with new values that apply before the optimizer changes them (normalized kernels).
        losses: scalars that layers add to the loss, such as activity regularization.
        lower: a function that lowers a layer inside another layer, such as a wrapper. Its arguments are the layer, the
            trace and the layer's inputs.
        replicate: whether layers without a rule run on whole tensors.
        replicated: the layers that ran on whole tensors: name, class, bytes on every device, and why they have no rule.
        problems: a list that collects the layers that cannot be partitioned; None if such a layer raises an error.
        layers: for each operation, the names of the layers that it is part of, the outermost first.
    """

    distribution: Any
    training: bool = False
    shard_lengths: Mapping[str, ShardLength] = field(default_factory=dict)
    weight_values: Mapping[int, tf.Tensor] = field(default_factory=dict)
    planning: bool = False
    channels_first: bool = False
    updates: list[tuple[keras.Variable, mtf.Tensor, Blend]] = field(default_factory=list)
    assignments: list[tuple[keras.Variable, tf.Tensor]] = field(default_factory=list)
    losses: list[SpatialTensor] = field(default_factory=list)
    layers: dict[mtf.Operation, tuple[str, ...]] = field(default_factory=dict)
    lower: Callable[..., Any] | None = None
    replicate: bool = False
    replicated: list[tuple[str, str, int, str]] = field(default_factory=list)
    problems: list | None = None

    def __post_init__(self):
        self.graph = mtf.Graph()
        self.mesh = mtf.Mesh(self.graph, "mesh")
        self.impl = self.distribution.runtime.mesh_impl()
        self._weights: dict[int, mtf.Tensor] = {}
        self._cuts = 0
        self.variable_dtype: str | None = None

    @contextmanager
    def in_mode(self, training: bool) -> Iterator[None]:
        """Run layers in another mode inside a `with` block."""
        before, self.training = self.training, training
        try:
            yield
        finally:
            self.training = before

    @contextmanager
    def casting_for(self, operation: keras.Operation) -> Iterator[None]:
        """Read variables in the dtype in which Keras lets a layer's `call` read them, inside a `with` block."""
        before, self.variable_dtype = self.variable_dtype, keras_private.autocast_dtype(operation, self.variable_dtype)
        try:
            yield
        finally:
            self.variable_dtype = before

    def inner(self, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        """Lower a layer that is inside the current one, by its own rule."""
        assert self.lower is not None
        return self.lower(layer, self, *args, **kwargs)

    # Bringing tensors onto the mesh.

    def input(
        self,
        value: tf.Tensor | tf.TensorSpec | LocalBlocks,
        *,
        like: SpatialTensor | None = None,
        differentiable: bool = False,
    ) -> SpatialTensor:
        """Cut an image or label tensor of static shape into shards and distribute them over the mesh.

        Args:
            value: a channels-last tensor whose first axis is the batch, or the shards of it that this process holds.
            like: a tensor whose axes are reused for axes of the same size, as labels reuse those of the logits. Without
                it, the axes are those of an input image.
            differentiable: whether a gradient with respect to it will be asked for.
        """
        axes = self._axes_like(value.shape, like) if like is not None else self._input_axes(value.shape)
        padding = [(0, axis.shards * axis.length - axis.size) for axis in axes]
        if self.planning:
            pass  # Shard lengths are not known yet, and values are never read.
        elif isinstance(value, LocalBlocks):
            lengths, counts = tuple(axis.length for axis in axes), tuple(axis.shards for axis in axes)
            value.check(lengths, counts, len(self.impl.devices))
        elif not isinstance(value, tf.TensorSpec) and any(after for _, after in padding):
            with self.impl.on_host():
                value = tf.pad(value, padding)
        source = Source(self.mesh, value, mesh_shape_of(axes), differentiable=differentiable, name="input")
        return SpatialTensor(source.outputs[0], axes)

    def _input_axes(self, shape: tf.TensorShape) -> tuple[Axis, ...]:
        sizes = static_sizes(shape)
        names = axis_names(len(sizes))
        if self.channels_first and len(names) > 2:
            names = (names[0], names[-1], *names[1:-1])
        return tuple(self._cut_axis(name, name, size) for name, size in zip(names, sizes, strict=True))

    def _cut_axis(self, cut: str, name: str, size: int) -> Axis:
        shards = 1 if name.startswith(("channels", "axis")) else self.distribution.shards(name)
        if shards == 1:
            return Axis(name, size)
        length = self.shard_lengths.get(cut, ShardLength()).length_for(size, shards)
        return Axis(name, size, shards, length, cut=cut)

    def new_axis(self, name: str, size: int) -> Axis:
        """An axis that is sharded as the layout says for its name, or whole if it is shorter than its number of shards.

        Whether it is called must not depend on shard lengths: planning and the step have to number the cuts in one way.
        """
        self._cuts += 1
        if name.startswith(("channels", "axis")) or size < self.distribution.shards(name):
            return Axis(name, size)
        return self._cut_axis(f"{name}#{self._cuts}", name, size)

    def recut(self, axis: Axis, size: int) -> Axis:
        """A sharded axis with a new division into shards, for a size that is not in a simple ratio to the old one.

        Whether it is called must not depend on shard lengths: planning and the step have to number the cuts in one way.
        """
        if not axis.sharded or size == 1:
            return axis.whole(size)
        self._cuts += 1
        return self._cut_axis(f"{axis.name}#{self._cuts}", axis.name, size)

    def _axes_like(self, shape: tf.TensorShape, like: SpatialTensor) -> tuple[Axis, ...]:
        axes = []
        for i, size in enumerate(static_sizes(shape)):
            same = i < like.ndim and like.axes[i].size == size
            axes.append(like.axes[i] if same else Axis(f"axis{i}", size))
        return tuple(axes)

    def constant(self, value, axes: tuple[Axis, ...] = (), name: str = "constant") -> SpatialTensor:
        """A small tensor that is the same on every device, such as a seed."""
        value = tf.convert_to_tensor(value)
        axes = axes or tuple(Axis(f"axis{i}", size) for i, size in enumerate(static_sizes(value.shape)))
        source = Source(self.mesh, value, mesh_shape_of(axes), differentiable=False, name=name)
        return SpatialTensor(source.outputs[0], axes)

    def weight(self, variable: keras.Variable | SpatialTensor) -> mtf.Tensor:
        """A replicated Keras variable or tensor on the mesh. Each variable is brought onto the mesh only once."""
        if isinstance(variable, SpatialTensor):
            return variable.value
        if id(variable) not in self._weights:
            value = self.value_of(variable)
            shape = mtf.Shape([mtf.Dimension(f"weight{i}", size) for i, size in enumerate(value.shape.as_list())])
            source = Source(self.mesh, value, shape, differentiable=variable.trainable, name="weight")
            self._weights[id(variable)] = source.outputs[0]
        return self._weights[id(variable)]

    def value_of(self, variable: keras.Variable) -> tf.Tensor:
        """A variable's value in this step."""
        value = self.weight_values.get(id(variable))
        return tf.convert_to_tensor(variable.value) if value is None else value

    def replace_weight(self, variable: keras.Variable, value: tf.Tensor) -> None:
        """Use a new value for a variable in this step.

        Raises:
            ValueError: if the variable was used already.
        """
        if id(variable) in self._weights:
            raise ValueError(f"Variable '{variable.path}' changes in a step that has already used it.")
        self.weight_values = {**self.weight_values, id(variable): value}

    def known_weight(self, variable: keras.Variable) -> mtf.Tensor | None:
        """A variable that was brought onto the mesh already, or None."""
        return self._weights.get(id(variable))

    def image_weight(self, variable: keras.Variable, axes: tuple[Axis, ...]) -> SpatialTensor:
        """A Keras variable that has image axes itself, which are cut into the same shards as those of the image."""
        if id(variable) not in self._weights:
            padding = [(0, axis.shards * axis.length - axis.size) for axis in axes]
            value = tf.pad(self.value_of(variable), padding)
            shape = mesh_shape_of(axes)
            source = Source(self.mesh, value, shape, differentiable=variable.trainable, name="image_weight")
            self._weights[id(variable)] = source.outputs[0]
        return SpatialTensor(self._weights[id(variable)], axes)

    def image_constant(self, values: tf.Tensor, index: int, like: SpatialTensor) -> SpatialTensor:
        """A vector along one image axis of a tensor, including padding, which broadcasts along the other axes."""
        axes = tuple(axis if i == index else axis.whole(1) for i, axis in enumerate(like.axes))
        source = Source(
            self.mesh, along(values, index, like.ndim), mesh_shape_of(axes), differentiable=False, name="constant"
        )
        return SpatialTensor(source.outputs[0], axes)

    def update(self, variable: keras.Variable, value: SpatialTensor, blend: Blend = lambda _, new: new) -> None:
        """Assign a replicated tensor to a variable when the step is done.

        Args:
            variable: the variable.
            value: the tensor.
            blend: a function from the variable's value at the end of the step, and the tensor, to the new value. It is
                computed once, and not on every device.
        """
        self.updates.append((variable, value.value, blend))

    # Local operations.

    def local(
        self,
        fn: Callable[..., Any],
        inputs: Sequence[SpatialTensor],
        outputs: Sequence[tuple[tuple[Axis, ...], tf.DType | str]],
        *,
        weights: Sequence[keras.Variable] = (),
        masked: bool = True,
        elementwise: bool = False,
        linear: bool = False,
        derivative_at_output: bool = False,
        summed: Mapping[int, int] | None = None,
        concatenates: bool = False,
        differentiates: bool = False,
        name: str = "local",
    ) -> list[SpatialTensor]:
        """Apply a function to each shard. A result that lacks an axis of the inputs is a partial sum over that axis.

        Partial sums are all-reduced over the mesh axes of the axes that the result lacks.

        Args:
            fn: a function from the inputs' shards and the weights to the results' shards.
            inputs: the tensors.
            outputs: the axes and dtype of each result.
            weights: Keras variables that `fn` uses.
            masked: whether `fn` sees only the elements inside the image along the axes that all results lack, so that
                elements beyond it are not summed. Pass False if `fn` depends on the full length of the shards and
                masks those elements itself.
            elementwise, linear, derivative_at_output, summed, concatenates, differentiates: see `LocalOperation`.
            name: a name for the graph.

        Raises:
            ValueError: if one result lacks an axis that reaches beyond the image, and another result has it.
        """
        operation = LocalOperation(
            lambda *shards: as_tuple(fn(*shards)),
            [x.value for x in inputs] + [self.weight(w) for w in weights],
            [(mesh_shape_of(axes), tf.as_dtype(dtype)) for axes, dtype in outputs],
            edges=self.edges(inputs, [axes for axes, _ in outputs], name) if masked else (),
            elementwise=elementwise,
            linear=linear,
            derivative_at_output=derivative_at_output,
            summed=summed,
            concatenates=concatenates,
            differentiates=differentiates,
            name=name,
        )
        return [SpatialTensor(v, tuple(axes)) for v, (axes, _) in zip(operation.outputs, outputs, strict=True)]

    def edges(self, inputs: Sequence[SpatialTensor], outputs: Sequence[Sequence[Axis]], name: str) -> list[Edge]:
        """The edges of the image along the axes that are reduced."""
        edges = []
        for number, x in enumerate(inputs):
            for i in x.padded_axes:
                axis = x.axes[i]
                kept = [any(o.sharded and o.name == axis.name for o in axes) for axes in outputs]
                if not any(kept):
                    edges.append(Edge(number, i, self.mesh_axis(axis), axis.length, axis.size))
                elif not all(kept):
                    raise ValueError(
                        f"Operation '{name}' reduces axis '{axis.name}' in one result and keeps it in another, and "
                        "shards reach beyond the image there. Split it into two operations, or mask the input and pass "
                        "masked=False."
                    )
        return edges

    def reduced(
        self,
        fn: Callable[..., tf.Tensor],
        inputs: Sequence[SpatialTensor],
        axes: Sequence[Axis],
        *,
        weights: Sequence[keras.Variable] = (),
        dtype: tf.DType | str | None = None,
        masked: bool = True,
        name: str = "reduced",
    ) -> SpatialTensor:
        """Sum over image axes: `fn` computes each shard's partial sum, and an all-reduce adds them.

        Along an axis that the inputs have and `axes` lacks, `fn` sees only the elements inside the image, and the
        devices' partial sums are added.

        Args:
            fn: a function from the inputs' shards and the weights to one shard of the result.
            inputs: the tensors.
            axes: the result's axes.
            weights: Keras variables that `fn` uses.
            dtype: the result's dtype, if it differs from that of the first input.
            masked: whether `fn` sees only the elements inside the image along reduced axes; see `local`.
            name: a name for the graph.
        """
        outputs = [(tuple(axes), dtype or inputs[0].dtype)]
        return self.local(fn, inputs, outputs, weights=weights, masked=masked, name=name)[0]

    def cast(self, x: SpatialTensor, dtype: tf.DType | str) -> SpatialTensor:
        dtype = tf.as_dtype(dtype)
        if x.dtype == dtype:
            return x
        return self.local(lambda t: tf.cast(t, dtype), [x], [(x.axes, dtype)], elementwise=True, name="cast")[0]

    def filled(self, x: SpatialTensor, fill: float) -> SpatialTensor:
        """The tensor with a given number beyond the image, for operations that could turn other values into infinity.

        A tensor that does not reach beyond the image is returned unchanged.
        """
        if not x.padded_axes:
            return x
        edges = [
            Edge(0, i, self.mesh_axis(x.axes[i]), x.axes[i].length, x.axes[i].size, fill=fill) for i in x.padded_axes
        ]
        operation = LocalOperation(
            lambda t: (tf.identity(t),), [x.value], [(x.value.shape, x.dtype)], edges=edges, name="filled"
        )
        return SpatialTensor(operation.outputs[0], x.axes)

    def mesh_axis(self, axis: Axis) -> int:
        """The index of the mesh axis over which an axis is sharded."""
        return self.impl.tensor_dimension_to_mesh_axis(dimension_of(axis))

    def inside(self, x: SpatialTensor) -> SpatialTensor | None:
        """A mask of one channel, 1 inside the image and 0 beyond its logical size; None if no shard reaches beyond."""
        padded = x.padded_axes
        if not padded:
            return None
        axes = tuple(axis if i in padded else axis.whole(1) for i, axis in enumerate(x.axes))

        def on_shard(place: list, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
            mask = tf.ones([1] * x.ndim, x.dtype)
            for coordinate, i in zip(place, padded, strict=True):
                index = coordinate * x.axes[i].length + tf.range(x.axes[i].length)
                mask *= tf.cast(along(index < x.axes[i].size, i, x.ndim), x.dtype)
            return (mask,)

        anchor = Source(self.mesh, tf.zeros([], x.dtype), mtf.Shape([]), differentiable=False, name="inside").outputs[0]
        operation = LocalOperation(
            on_shard,
            [anchor],
            [(mesh_shape_of(axes), x.dtype)],
            coordinates=[self.mesh_axis(x.axes[i]) for i in padded],
            name="inside",
        )
        return SpatialTensor(operation.outputs[0], axes)


def along(vector: tf.Tensor, axis: int, rank: int) -> tf.Tensor:
    return tf.reshape(vector, [-1 if i == axis else 1 for i in range(rank)])


def as_tuple(value: Any) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
