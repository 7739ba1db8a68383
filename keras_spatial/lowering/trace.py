"""A trace: the Mesh-TF graph of one step of a model, while it is being built from the four kinds of operation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from keras_spatial.lowering import relayout as layouts
from keras_spatial.lowering.tensors import Axis, Blocks, SpatialTensor, axis_names, broadcast_axes, mesh_shape_of
from keras_spatial.mtf.compatibility import mtf
from keras_spatial.mtf.halo import Halo, take
from keras_spatial.mtf.local import LocalOperation, Source
from keras_spatial.mtf.shared import static_sizes
from keras_spatial.runtimes.blocks import LocalBlocks


@dataclass
class Trace:
    """Builds the Mesh-TF graph of one step.

    Attributes:
        distribution: the `SpatialParallel` in force.
        training: whether layers run in training mode.
        blocks: how each image axis of the model's input is cut.
        weight_values: values that stand for variables, by the variables' `id`; others are read from the variable.
        planning: whether the walk only looks for blocks that fit; nothing then changes a variable.
        channels_first: whether the model's images have their channels before the image axes.
        updates: variables with their new values (batch-norm statistics), to be assigned when the step is done.
        losses: scalars that layers add to the loss, such as activity regularization.
        layers: for each operation the names of the layers that it is part of, the outermost first.
    """

    distribution: Any
    training: bool = False
    blocks: Mapping[str, Blocks] = field(default_factory=dict)
    weight_values: Mapping[int, tf.Tensor] = field(default_factory=dict)
    planning: bool = False
    channels_first: bool = False
    updates: list[tuple[keras.Variable, mtf.Tensor]] = field(default_factory=list)
    losses: list[SpatialTensor] = field(default_factory=list)
    layers: dict[mtf.Operation, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self):
        self.graph = mtf.Graph()
        self.mesh = mtf.Mesh(self.graph, "mesh")
        self.impl = self.distribution.mesh_impl()
        self._weights: dict[int, mtf.Tensor] = {}
        self._cuts = 0

    # Bringing tensors onto the mesh.

    def input(
        self, value: tf.Tensor | LocalBlocks, *, like: SpatialTensor | None = None, differentiable: bool = False
    ) -> SpatialTensor:
        """An image or label tensor of static shape, cut into blocks and spread over the mesh.

        Args:
            value: a tensor whose first axis is the batch; channels last. Or the blocks that this process holds of it.
            like: a tensor whose axes it shares wherever the sizes agree, as labels do with logits. Without it the
                axes are those of an input image.
            differentiable: whether a gradient with respect to it will be asked for.
        """
        axes = self._axes_like(value.shape, like) if like is not None else self._input_axes(value.shape)
        padding = [(0, axis.blocks * axis.length - axis.size) for axis in axes]
        if isinstance(value, LocalBlocks):
            if not self.planning:  # While blocks are planned, their lengths are not known yet.
                lengths, counts = tuple(axis.length for axis in axes), tuple(axis.blocks for axis in axes)
                value.check(lengths, counts, len(self.impl.devices))
        elif any(after for _, after in padding):
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
        blocks = 1 if name.startswith(("channels", "axis")) else self.distribution.blocks(name)
        if blocks == 1:
            return Axis(name, size)
        length = self.blocks.get(cut, Blocks()).length_for(size, blocks)
        return Axis(name, size, blocks, length, cut=cut)

    def recut(self, axis: Axis, size: int) -> Axis:
        """A split axis cut anew: for a size that is in no simple ratio to the one before.

        Call it for reasons that do not depend on block lengths, so that planning and the step itself number alike.
        """
        if not axis.split or size == 1:
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

    def weight(self, variable: keras.Variable) -> mtf.Tensor:
        """A Keras variable, replicated. The same variable is brought onto the mesh once."""
        if id(variable) not in self._weights:
            value = self._value_of(variable)
            shape = mtf.Shape([mtf.Dimension(f"weight{i}", size) for i, size in enumerate(value.shape.as_list())])
            source = Source(self.mesh, value, shape, differentiable=variable.trainable, name="weight")
            self._weights[id(variable)] = source.outputs[0]
        return self._weights[id(variable)]

    def _value_of(self, variable: keras.Variable) -> tf.Tensor:
        value = self.weight_values.get(id(variable))
        return tf.convert_to_tensor(variable.value) if value is None else value

    def replace_weight(self, variable: keras.Variable, value: tf.Tensor) -> None:
        """Let a new value stand for a variable in this step.

        Raises:
            ValueError: if the variable was used already.
        """
        if id(variable) in self._weights:
            raise ValueError(f"Variable '{variable.path}' changes in a step that has used it already.")
        self.weight_values = {**self.weight_values, id(variable): value}

    def known_weight(self, variable: keras.Variable) -> mtf.Tensor | None:
        """A variable that was brought onto the mesh already, or None."""
        return self._weights.get(id(variable))

    def image_weight(self, variable: keras.Variable, axes: tuple[Axis, ...]) -> SpatialTensor:
        """A Keras variable that has image axes itself, cut into the same blocks as the image."""
        if id(variable) not in self._weights:
            padding = [(0, axis.blocks * axis.length - axis.size) for axis in axes]
            value = tf.pad(self._value_of(variable), padding)
            shape = mesh_shape_of(axes)
            source = Source(self.mesh, value, shape, differentiable=variable.trainable, name="image_weight")
            self._weights[id(variable)] = source.outputs[0]
        return SpatialTensor(self._weights[id(variable)], axes)

    def image_constant(self, values: tf.Tensor, index: int, like: SpatialTensor) -> SpatialTensor:
        """A vector along one image axis of a tensor, padding included, that broadcasts along the others."""
        axes = tuple(axis if i == index else axis.whole(1) for i, axis in enumerate(like.axes))
        source = Source(
            self.mesh, _along(values, index, like.ndim), mesh_shape_of(axes), differentiable=False, name="constant"
        )
        return SpatialTensor(source.outputs[0], axes)

    def update(self, variable: keras.Variable, value: SpatialTensor) -> None:
        """Assign a replicated tensor to a variable when the step is done."""
        self.updates.append((variable, value.value))

    # The four kinds.

    def pointwise(
        self,
        fn: Callable[..., tf.Tensor],
        inputs: Sequence[SpatialTensor],
        *,
        weights: Sequence[keras.Variable] = (),
        channels: int | None = None,
        dtype: tf.DType | str | None = None,
        linear: bool = False,
        derivative_at_output: bool = False,
        name: str = "pointwise",
    ) -> SpatialTensor:
        """A function of each voxel's channels: activations, arithmetic, a dense layer on the channels.

        Args:
            fn: from the inputs' slices and the weights to one slice, with the usual broadcasting.
            inputs: tensors of equal or broadcastable shapes.
            weights: Keras variables that `fn` uses.
            channels: size of the result's last axis, where it differs from the inputs'.
            dtype: the result's dtype, where it differs from the first input's.
            linear: whether `fn` is linear in the first input, element by element, such as adding a bias.
            derivative_at_output: whether the derivative of `fn` at its result is that at its input, as for `relu`.
                Either lets it become part of the operation before it (`mtf.fusion`).
            name: a name for the graph.
        """
        inputs = layouts.aligned(self, inputs)
        axes = broadcast_axes(inputs)
        if channels is not None:
            axes = (*axes[:-1], Axis(axes[-1].name, channels))
        operation = LocalOperation(
            lambda *slices: _as_tuple(fn(*slices)),
            [x.value for x in inputs] + [self.weight(w) for w in weights],
            [(mesh_shape_of(axes), tf.as_dtype(dtype or inputs[0].dtype))],
            elementwise=len(inputs) == 1 and channels is None,
            linear=linear,
            derivative_at_output=derivative_at_output,
            name=name,
        )
        return SpatialTensor(operation.outputs[0], axes)

    def reduced(
        self,
        fn: Callable[..., tf.Tensor],
        inputs: Sequence[SpatialTensor],
        axes: Sequence[Axis],
        *,
        weights: Sequence[keras.Variable] = (),
        dtype: tf.DType | str | None = None,
        name: str = "reduced",
    ) -> SpatialTensor:
        """A sum over image axes: `fn` makes each slice's partial sum, the mesh adds them up.

        Over an axis that the inputs have and `axes` lacks, partial results of the devices are added. What lies beyond
        the logical size must not count: see `inside`.

        Args:
            fn: from the inputs' slices and the weights to one slice of the result.
            inputs: the tensors.
            axes: the result's axes.
            weights: Keras variables that `fn` uses.
            dtype: the result's dtype, where it differs from the first input's.
            name: a name for the graph.
        """
        axes = tuple(axes)
        return self.local(fn, inputs, [(axes, dtype or inputs[0].dtype)], weights=weights, name=name)[0]

    def local(
        self,
        fn: Callable[..., Any],
        inputs: Sequence[SpatialTensor],
        outputs: Sequence[tuple[tuple[Axis, ...], tf.DType | str]],
        *,
        weights: Sequence[keras.Variable] = (),
        name: str = "local",
    ) -> list[SpatialTensor]:
        """The general form of `pointwise` and `reduced`: several outputs, each of any axes."""
        operation = LocalOperation(
            lambda *slices: _as_tuple(fn(*slices)),
            [x.value for x in inputs] + [self.weight(w) for w in weights],
            [(mesh_shape_of(axes), tf.as_dtype(dtype)) for axes, dtype in outputs],
            name=name,
        )
        return [SpatialTensor(v, tuple(axes)) for v, (axes, _) in zip(operation.outputs, outputs, strict=True)]

    def windowed(
        self,
        fn: Callable[..., tf.Tensor],
        x: SpatialTensor,
        margins: Mapping[int, tuple[int, int]],
        axes: Sequence[Axis],
        *,
        fill: float = 0.0,
        weights: Sequence[keras.Variable] = (),
        native: Callable[..., tf.Tensor] | None = None,
        plus: SpatialTensor | None = None,
        dtype: tf.DType | str | None = None,
        name: str = "windowed",
    ) -> SpatialTensor:
        """A function of each voxel's neighbourhood: convolution, pooling, interpolation.

        Args:
            fn: from a slice with its margins, and the weights, to the result's slice. It sees neighbours' values in
                the margins, and `fill` wherever the image ends; so it pads nothing itself. It may return more than
                the result's slice holds: the surplus above is cut off.
            x: the tensor.
            margins: for each axis of the tensor that the window spans, elements below and above.
            axes: the result's axes.
            fill: what stands outside the image.
            weights: Keras variables that `fn` uses.
            native: the same function for a whole axis, padding included. It is used where no axis that the window
                spans is split.
            plus: what is added to the result, of its axes.
            dtype: the result's dtype, where it differs from the input's.
            name: a name for the graph.
        """
        axes = tuple(axes)
        split = [i for i in margins if x.axes[i].split]
        extra = [] if plus is None else [plus]

        def added(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
            return lambda block, term, *weights: term + function(block, *weights)

        if native is not None and not split:
            native = added(native) if extra else native
            return self.reduced(native, [x, *extra], axes, weights=weights, dtype=dtype, name=name)
        halos = [Halo(i, self.mesh_axis(x.axes[i]), *margins[i]) for i in split if any(margins[i])]
        padding = {i: margins[i] for i in margins if i not in split and any(margins[i])}
        # Where blocks reach beyond the image it is the blocks that are filled; else only what comes from outside it.
        beyond = [i for i in split if x.axes[i].padded]
        outside = [halo.axis for halo in halos if fill and halo.axis not in beyond]
        edges = [*beyond, *outside]
        shape = [axis.length for axis in axes]

        def on_margins(places: list, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            found = dict(zip(edges, places, strict=True))
            filled = []
            for number, halo in enumerate(halos):
                for value, above in zip(values[2 * number :][:2], (False, True), strict=True):
                    # A margin holds those of the axes before its own, and so corners.
                    for i in [h.axis for h in halos[: number + 1] if h.axis in outside]:
                        start = found[i] * x.axes[i].length - margins[i][0]
                        if above and i == halo.axis:
                            start += margins[i][0] + x.axes[i].length
                        value = fill_outside(value, i, start, x.axes[i].size, fill)
                    filled.append(value)
            return filled

        def within(place: list, block: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
            for coordinate, i in zip(place, beyond, strict=False):
                start = coordinate * x.axes[i].length - margins[i][0]
                block = fill_outside(block, i, start, x.axes[i].size, fill)
            result = fn(block, *weights)
            for i, length in enumerate(shape):
                result = take(result, i, 0, length)
            return result

        def on_slice(place: list, *slices: tf.Tensor) -> tuple[tf.Tensor, ...]:
            function = functools.partial(within, place)
            return (added(function)(*slices) if extra else function(*slices),)

        operation = LocalOperation(
            on_slice if edges else lambda *slices: on_slice([], *slices),
            [t.value for t in (x, *extra)] + [self.weight(w) for w in weights],
            [(mesh_shape_of(axes), tf.as_dtype(dtype or x.dtype))],
            halos=halos,
            paddings=padding,
            fill=fill,
            on_margins=on_margins if outside else None,
            coordinates=[self.mesh_axis(x.axes[i]) for i in edges],
            name=name,
        )
        return SpatialTensor(operation.outputs[0], axes)

    def relayout(self, x: SpatialTensor, axes: Sequence[Axis]) -> SpatialTensor:
        """The same elements, cut into other blocks or put together on every device: see `lowering.relayout`."""
        return layouts.relayout(self, x, axes)

    def whole(self, x: SpatialTensor, indices: Sequence[int]) -> SpatialTensor:
        """The tensor with some axes put together on every device: for small tensors."""
        return layouts.whole(self, x, indices)

    def maximum(
        self,
        x: SpatialTensor,
        axes: Sequence[Axis],
        *,
        keepdims: bool,
        over: Sequence[int] | None = None,
        name: str = "maximum",
    ) -> SpatialTensor:
        """The maximum over some axes. Its gradient is shared by equal maxima, as TensorFlow's is.

        Args:
            x: the tensor.
            axes: the result's axes.
            keepdims: whether they keep the axes of the maximum, with size 1.
            over: the axes of the maximum; by default all image axes.
            name: a name for the graph.
        """
        over = list(range(1, x.ndim - 1) if over is None else over)
        inside = self.inside(x)
        axes = tuple(axes)
        kept = tuple(axis.whole(1) if i in over else axis for i, axis in enumerate(x.axes))
        inputs = [x] if inside is None else [x, inside]

        def local_maximum(t: tf.Tensor, *mask: tf.Tensor) -> tuple[tf.Tensor, ...]:
            t = t if not mask else tf.where(tf.cast(mask[0], tf.bool), t, t.dtype.min)
            return (tf.reduce_max(t, over, keepdims=True),)

        operation = LocalOperation(
            local_maximum, [t.value for t in inputs], [(mesh_shape_of(kept), x.dtype)], reduction="MAX", name=name
        )
        maximum = SpatialTensor(operation.outputs[0], kept)
        if not x.dtype.is_floating:
            return maximum if keepdims else self.reduced(lambda t: tf.squeeze(t, over), [maximum], axes, name=name)

        def is_maximum(t: tf.Tensor, m: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
            equal = t == m
            return equal if not mask else tf.logical_and(equal, tf.cast(mask[0], tf.bool))

        def count(t: tf.Tensor, m: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.cast(is_maximum(t, m, *mask), tf.float32), over, keepdims=True)

        def share(t: tf.Tensor, n: tf.Tensor, m: tf.Tensor, *mask: tf.Tensor) -> tf.Tensor:
            shares = tf.where(is_maximum(t, m, *mask), t / tf.cast(tf.maximum(n, 1.0), t.dtype), tf.zeros_like(t))
            return tf.reduce_sum(shares, over, keepdims=keepdims)

        counts = self.reduced(count, [x, maximum, *inputs[1:]], kept, dtype=tf.float32, name=f"{name}_count")
        return self.reduced(share, [x, counts, maximum, *inputs[1:]], axes, name=name)

    def random(
        self,
        seed_generator: keras.random.SeedGenerator,
        axes: Sequence[Axis],
        sample: Callable[..., tf.Tensor],
        transform: Callable[[tf.Tensor], tf.Tensor],
        dtype: tf.DType,
    ) -> SpatialTensor:
        """Random numbers, the same on all devices that hold the same part of `axes`, and otherwise independent.

        Args:
            seed_generator: the Keras layer's; it is advanced by one, as in a call of the layer.
            axes: the result's axes.
            sample: such as `tf.random.stateless_normal`.
            transform: from the float32 sample to the result.
            dtype: the result's dtype.
        """
        axes = tuple(axes)
        seed = tf.zeros([2], tf.int32) if self.planning else tf.cast(seed_generator.next(), tf.int32)
        source = self.constant(seed, name="seed")
        split = [axis for axis in axes if axis.split]

        def on_slice(place: list, seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
            number = 0
            for coordinate, axis in zip(place, split, strict=True):
                number = number * axis.blocks + coordinate
            seed = tf.random.experimental.stateless_fold_in(seed, number)
            return (transform(sample([axis.length for axis in axes], seed)),)

        operation = LocalOperation(
            on_slice if split else lambda seed: on_slice([], seed),
            [source.value],
            [(mesh_shape_of(axes), dtype)],
            coordinates=[self.mesh_axis(axis) for axis in split],
            name="random",
        )
        return SpatialTensor(operation.outputs[0], axes)

    def mesh_axis(self, axis: Axis) -> int:
        """The number of the mesh axis over which a split axis is split."""
        return self.impl.tensor_dimension_to_mesh_axis(axis.dimension)

    # Helpers for lowerings.

    def inside(self, x: SpatialTensor) -> SpatialTensor | None:
        """1 for each voxel of the image and 0 beyond its logical size, of one channel; None if nothing is beyond."""
        padded = x.padded_axes
        if not padded:
            return None
        axes = tuple(axis if i in padded else axis.whole(1) for i, axis in enumerate(x.axes))

        def on_slice(place: list, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
            mask = tf.ones([1] * x.ndim, x.dtype)
            for coordinate, i in zip(place, padded, strict=True):
                index = coordinate * x.axes[i].length + tf.range(x.axes[i].length)
                mask *= tf.cast(_along(index < x.axes[i].size, i, x.ndim), x.dtype)
            return (mask,)

        anchor = Source(self.mesh, tf.zeros([], x.dtype), mtf.Shape([]), differentiable=False, name="inside").outputs[0]
        operation = LocalOperation(
            on_slice,
            [anchor],
            [(mesh_shape_of(axes), x.dtype)],
            coordinates=[self.mesh_axis(x.axes[i]) for i in padded],
            name="inside",
        )
        return SpatialTensor(operation.outputs[0], axes)

    def cast(self, x: SpatialTensor, dtype: tf.DType | str) -> SpatialTensor:
        dtype = tf.as_dtype(dtype)
        if x.dtype == dtype:
            return x
        return self.pointwise(lambda t: tf.cast(t, dtype), [x], dtype=dtype, name="cast")


def fill_outside(x: tf.Tensor, axis: int, start, size: int, fill: float) -> tf.Tensor:
    """`x`, whose first element along `axis` has the image index `start`, with `fill` at indices outside 0..size-1."""
    index = start + tf.range(x.shape[axis])
    inside = _along(tf.logical_and(index >= 0, index < size), axis, x.shape.rank)
    return tf.where(inside, x, tf.cast(fill, x.dtype))


def _along(vector: tf.Tensor, axis: int, rank: int) -> tf.Tensor:
    return tf.reshape(vector, [-1 if i == axis else 1 for i in range(rank)])


def _as_tuple(value: Any) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
