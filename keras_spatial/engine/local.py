"""A differentiable local operation: any TensorFlow function, run on every shard."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_spatial.engine.edges import Edge, Intervals, beyond, cropped, is_empty
from keras_spatial.engine.halo import Halo, exchange, exchange_adjoint, neighbourhood
from keras_spatial.engine.identity import identity_of
from keras_spatial.engine.interning import InternedDerivative, InternedFunction
from keras_spatial.mesh_tensorflow import mtf
from keras_spatial.runtimes.blocks import LocalBlocks
from keras_spatial.runtimes.functions import SharedFunction, VariedFunction


class LocalOperation(mtf.Operation):
    """Outputs are a TensorFlow function of the inputs, shard by shard.

    An output that lacks a split axis of the inputs is a partial sum, and is summed over that axis of the mesh. So
    `fn = tf.reduce_sum` with a scalar output is the sum over the whole image. The gradient follows from the same rule
    read backwards: the gradient of an input that lacks a split axis of the others (such as a weight) is summed over
    that axis.

    `fn` is traced once and called on every shard. The backward pass calls a second function that computes its
    derivative, and keeps alive only the inputs on which the derivative depends.

    Args:
        fn: a function from the inputs' shards (`tf.Tensor`s) to a tuple of the outputs' shards. With `coordinates`, its
            first argument is the list of the shard's coordinates.
        inputs: the Mesh-TF tensors.
        outputs: the shape and the dtype of every output.
        halos: the halos of the first input that `fn` sees around it. They are kept for the backward pass, but the input
            with its halos assembled is not.
        paddings: the numbers of elements below and above the first input that `fn` sees along axes without a halo.
        fill: the value of these elements.
        on_halos: a function from the intervals of `edges` and the halos to the halos that `fn` sees instead, for
            example with another value beyond the image.
        coordinates: the mesh axes whose coordinates `fn` gets.
        edges: where the image ends within the inputs' shards, and what `fn` sees there.
        reduction: `"SUM"`, or `"MAX"` for partial maxima, which have no gradient.
        elementwise: whether each element of the output depends on one element of the first input, and on weights.
        linear: whether `fn` is linear in each element of the first input, such as adding a bias.
        derivative_at_output: whether the derivative of `fn` is the same at its output as at its input, as for `relu`.
        summed: if `fn` sums over the channels of the first input: for the number of each other input that is summed
            over with them, the axis of that input.
        concatenates: whether `fn` concatenates the channels of its inputs.
        differentiates: whether the derivative of the first output is best computed together with the outputs, as for a
            loss. The backward pass begins there, so the derivative is kept no longer than the input would be.
        sees_intervals: whether the first argument of `fn` is what of the shard lies inside the image along each of
            `edges`.
        name: a name for the graph.

    Operations that follow one another become one where that keeps less for the backward pass: see `engine.fusion`.
    """

    def __init__(
        self,
        fn: Callable[..., tuple[tf.Tensor, ...]],
        inputs: Sequence[mtf.Tensor],
        outputs: Sequence[tuple[mtf.Shape, tf.DType]],
        *,
        halos: Sequence[Halo] = (),
        paddings: Mapping[int, tuple[int, int]] | None = None,
        fill: float = 0.0,
        on_halos: Callable[[Intervals, Sequence[tf.Tensor]], Sequence[tf.Tensor]] | None = None,
        coordinates: Sequence[int] = (),
        edges: Sequence[Edge] = (),
        reduction: str = "SUM",
        elementwise: bool = False,
        linear: bool = False,
        derivative_at_output: bool = False,
        summed: Mapping[int, int] | None = None,
        concatenates: bool = False,
        differentiates: bool = False,
        sees_intervals: bool = False,
        name: str = "local",
    ):
        super().__init__(list(inputs), name=name)
        self._outputs = [mtf.Tensor(self, shape, dtype) for shape, dtype in outputs]
        self._splittable_dims, self._unsplittable_dims = self._initialize_all_dimensions_as_splittable()
        self.fn = fn
        self.halos = [halo for halo in halos if halo.before or halo.after]
        self.paddings, self.fill = dict(paddings or {}), fill
        self.on_halos = on_halos
        self.coordinates = list(coordinates)
        self.edges = tuple(edges)
        self.reduction = reduction
        self.elementwise = elementwise or linear or derivative_at_output
        self.linear = linear
        self.derivative_at_output = derivative_at_output
        self.summed, self.concatenates = dict(summed or {}), concatenates
        self.differentiates = differentiates
        self.sees_intervals = sees_intervals
        # Applied to the result of `fn`; its derivative is taken at the operation's own output.
        self.tail: Callable[[tf.Tensor], tf.Tensor] | None = None
        self.arguments: list = []
        self.intervals: Any = None
        self.in_place = False
        # If the result is a number whose derivative was computed with it: the index of the input, and the derivative.
        self.kept_input: int | None = None
        self.kept: Any = None
        self.slice_shapes: list[list[int]] = []
        self._on_slices = VariedFunction(
            lambda intervals: InternedFunction(
                functools.partial(self.on_slice, intervals), self.identity(intervals, self.tail)
            )
        )
        for output in self._outputs:
            leads_to_differentiable_source(output)  # Asked in forward order, so that it never recurses deeply.

    def accepts(self, operation: "LocalOperation", mesh_impl: mtf.MeshImpl) -> bool:
        """Whether an elementwise operation that follows may become part of this one.

        The derivative of the two must not need what passes between them.
        """
        if self.tail is not None or len(self.outputs) != 1 or self.reduction != "SUM":
            return False
        if split_axes(mesh_impl, self.inputs) != split_axes(mesh_impl, self.outputs):
            return False  # Partial sums are added up between the two.
        return operation.linear or (operation.derivative_at_output and len(operation.inputs) == 1)

    def absorb(self, operation: "LocalOperation") -> None:
        if not operation.linear:
            self.tail = lambda y, fn=operation.fn: fn(y)[0]
            return
        count = len(self.inputs) + bool(self.coordinates) + self.sees_intervals
        first, then = self.fn, operation.fn
        self.fn = lambda *arguments: then(first(*arguments[:count])[0], *arguments[count:])
        self._inputs += operation.inputs[1:]

    def on_slice(self, intervals: Intervals, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The outputs' shards, computed from the intervals inside the image, the coordinates, the halos and the inputs'
        shards.
        """
        results = self.before_tail(intervals, *arguments)
        return results if self.tail is None else (self.tail(results[0]),)

    def before_tail(self, intervals: Intervals, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        places, received, inputs = self.sorted(arguments)
        if self.on_halos is not None:
            received = self.on_halos(intervals, received)
        inputs = [neighbourhood(inputs[0], received, self.halos, self.paddings, self.fill, self.in_place), *inputs[1:]]
        for edge, interval in zip(self.edges, intervals, strict=True):
            if edge.fill is not None and not edge.in_halos:
                inputs[edge.input] = beyond(inputs[edge.input], edge.axis, interval, edge.fill)
        if is_empty(self.edges, intervals):
            return self.of_nothing()
        for edge, interval in zip(self.edges, intervals, strict=True):
            if edge.fill is None:
                inputs[edge.input] = cropped(inputs[edge.input], edge.axis, interval)
        return self.fn(*[intervals] * self.sees_intervals, *[list(places)] * bool(places), *inputs)

    def identity(self, intervals: Intervals, *more: Any) -> Hashable | None:
        """The identity of what the operation computes on a shard, with `more` on which a function depends; None if
        unknown.

        It is asked when the operation is lowered: until then others may become part of it.
        """
        outputs = tuple((tuple(shape), o.dtype) for shape, o in zip(self.slice_shapes, self.outputs, strict=True))
        around = (self.halos, self.paddings, self.fill, self.on_halos, self.edges, intervals, len(self.coordinates))
        around = (*around, self.in_place)
        return identity_of((self.fn, *around, self.reduction, outputs, more))

    def of_nothing(self) -> tuple[tf.Tensor, ...]:
        """What a shard that lies beyond the image adds to a reduction."""
        fill = {"SUM": lambda dtype: tf.zeros([], dtype), "MAX": lambda dtype: tf.constant(dtype.min, dtype)}
        pairs = zip(self.slice_shapes, self.outputs, strict=True)
        return tuple(tf.fill(shape, fill[self.reduction](output.dtype)) for shape, output in pairs)

    def sorted(self, arguments: Sequence) -> tuple[Sequence, Sequence, Sequence]:
        """Sort the arguments of `on_slice` into coordinates, halos and inputs."""
        first, second = len(self.coordinates), len(self.coordinates) + 2 * len(self.halos)
        return arguments[:first], arguments[first:second], arguments[second:]

    def lower(self, lowering: mtf.Lowering) -> None:
        mesh_impl = lowering.mesh_impl(self)
        inputs = [lowering.tensors[t].to_laid_out_tensor() for t in self.inputs]
        places = [mesh_impl.laid_out_pcoord(axis) for axis in self.coordinates]
        self.arguments = [*places, *exchange(mesh_impl, inputs[0], self.halos), *inputs]
        self.slice_shapes = [list(mesh_impl.slice_shape(output.shape)) for output in self.outputs]
        self.intervals = intervals_of(mesh_impl, self.edges)
        self.in_place = mesh_impl.in_place
        if self.kept_input is None:
            results = mesh_impl.slicewise(self._on_slices, self.intervals, *self.arguments)
        else:
            *results, self.kept = mesh_impl.slicewise(self._with_derivative, self.intervals, *self.arguments)
        own_axes = split_axes(mesh_impl, self.inputs)
        for output, result in zip(self.outputs, results, strict=True):
            missing = own_axes - split_axes(mesh_impl, [output])
            if missing and self.reduction == "MAX":
                result = mesh_impl.allreduce(result, sorted(missing), "MAX")
            elif missing:
                result = mtf.LazyAllreduceSum(mesh_impl, result, sorted(missing))
            lowering.set_tensor_lowering(output, result)

    @property
    def has_gradient(self) -> bool:
        return self.reduction == "SUM" and bool(super().has_gradient)

    def gradient(self, grad_ys: Sequence[mtf.Tensor | None]) -> list[mtf.Tensor | None]:
        wanted = differentiable_inputs(self)
        if not wanted:
            return [None] * len(self.inputs)
        first, *others = grad_ys
        if first is not None and not any(dy is not None for dy in others) and self._keeps_derivative(wanted):
            operation = _KeptGradient(self, first, wanted[0])
        else:
            operation = _LocalGradient(self, grad_ys, wanted)
        gradients = dict(zip(wanted, operation.outputs, strict=True))
        return [gradients.get(i) for i in range(len(self.inputs))]

    def _keeps_derivative(self, wanted: Sequence[int]) -> bool:
        """Whether the derivative of the first output, with respect to one sharded input, is computed with it.

        It is multiplied by that output's gradient later: float16 would lose what a scaled loss saves.
        """
        lowered = bool(self.arguments)
        if not self.differentiates or lowered or len(wanted) != 1:
            return False
        x = self.inputs[wanted[0]]
        return x.dtype.size >= 4 and all(set(t.shape.dims) <= set(x.shape.dims) for t in self.inputs)

    @functools.cached_property
    def _with_derivative(self) -> VariedFunction:
        """As `_on_slices`, with the derivative of the first result as one more result."""
        assert self.kept_input is not None
        place = len(self.coordinates) + 2 * len(self.halos) + self.kept_input

        def differentiated(intervals: Intervals, *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(arguments[place])
                results = self.on_slice(intervals, *arguments)
            zero = tf.UnconnectedGradients.ZERO
            gradient = tape.gradient(results[0], arguments[place], unconnected_gradients=zero)
            return *results, tf.convert_to_tensor(gradient)  # Dense even if rows were looked up.

        return VariedFunction(
            lambda intervals: InternedFunction(
                functools.partial(differentiated, intervals), self.identity(intervals, "kept", place)
            )
        )


class _KeptGradient(mtf.Operation):
    """The gradient of a number whose derivative was computed with it."""

    def __init__(self, forward: LocalOperation, dy: mtf.Tensor, wanted: int):
        self.forward = forward
        forward.kept_input = wanted
        super().__init__([dy], mesh=forward.mesh, name=forward.name.split("/")[-1] + "_gradient")
        x = forward.inputs[wanted]
        self._outputs = [mtf.Tensor(self, x.shape, x.dtype)]

    def lower(self, lowering: mtf.Lowering) -> None:
        dy = lowering.tensors[self.inputs[0]].to_laid_out_tensor()
        (dx,) = lowering.mesh_impl(self).slicewise(_PRODUCT, self.forward.kept, dy)
        self.forward.kept = None
        lowering.set_tensor_lowering(self.outputs[0], dx)


_PRODUCT = SharedFunction(lambda x, factor: (x * tf.cast(factor, x.dtype),))


class _LocalGradient(mtf.Operation):
    def __init__(self, forward: LocalOperation, grad_ys: Sequence[mtf.Tensor | None], wanted: Sequence[int]):
        self.forward = forward
        self.known = [i for i, dy in enumerate(grad_ys) if dy is not None]
        self.wanted = list(wanted)
        dys = [grad_ys[i] for i in self.known]
        super().__init__(dys, mesh=forward.mesh, name=forward.name.split("/")[-1] + "_gradient")
        self._outputs = [mtf.Tensor(self, forward.inputs[i].shape, forward.inputs[i].dtype) for i in self.wanted]

    def lower(self, lowering: mtf.Lowering) -> None:
        mesh_impl = lowering.mesh_impl(self)
        forward = self.forward
        dys = [lowering.tensors[t].to_laid_out_tensor() for t in self.inputs]
        arguments = list(forward.arguments)
        before_inputs = len(arguments) - len(forward.inputs)
        tail = forward.tail
        at = [] if tail is None else [lowering.tensors[forward.outputs[0]].to_laid_out_tensor()]
        # Halos are differentiated with the input that they belong to.
        received = range(len(forward.coordinates), before_inputs) if 0 in self.wanted else range(0)
        sources = [*received, *(before_inputs + i for i in self.wanted)]
        backward = VariedFunction(
            lambda intervals: InternedDerivative(
                functools.partial(forward.before_tail, intervals),
                len(arguments),
                sources,
                self.known,
                tail,
                identity=forward.identity(intervals, len(arguments), sources, self.known, tail),
            )
        )
        results = list(mesh_impl.slicewise(backward, forward.intervals, *arguments, *at, *dys))
        dreceived, dinputs = results[: len(received)], results[len(received) :]
        if len(received):
            dinputs[0] = exchange_adjoint(mesh_impl, dinputs[0], dreceived, forward.halos)
        own_axes = split_axes(mesh_impl, forward.inputs + forward.outputs)
        for i, output, result in zip(self.wanted, self.outputs, dinputs, strict=True):
            missing = own_axes - split_axes(mesh_impl, [forward.inputs[i]])
            if missing:
                result = mtf.LazyAllreduceSum(mesh_impl, result, sorted(missing))
            lowering.set_tensor_lowering(output, result)


def intervals_of(mesh_impl: mtf.MeshImpl, edges: Sequence[Edge]):
    """For each shard, the part of it inside the image along each of the edges."""
    return mesh_impl.variants(
        [edge.mesh_axis for edge in edges],
        lambda coordinates: tuple(edge.interval(c) for edge, c in zip(edges, coordinates, strict=True)),
    )


def split_axes(mesh_impl: mtf.MeshImpl, tensors: Sequence[mtf.Tensor]) -> set[int]:
    """The mesh axes over which any of some tensors is split."""
    axes = {axis for t in tensors for axis in mesh_impl.tensor_layout(t).tensor_axis_to_mesh_axis}
    return axes - {None}


class Source(mtf.Operation):
    """A `tf.Tensor` brought onto the mesh.

    Args:
        mesh: the Mesh-TF mesh.
        value: the tensor, of the whole shape; or the shards that this process holds of it.
        shape: its Mesh-TF shape.
        differentiable: whether a gradient with respect to it will be asked for; backward operations that lead to no
            such source are never built.
        name: a name for the graph.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        value: tf.Tensor | tf.TensorSpec | LocalBlocks,
        shape: mtf.Shape,
        *,
        differentiable: bool,
        name: str,
    ):
        super().__init__([], mesh=mesh, name=name)
        self.value = value
        self.differentiable = differentiable
        self._outputs = [mtf.Tensor(self, shape, value.dtype)]

    def lower(self, lowering: mtf.Lowering) -> None:
        mesh_impl = lowering.mesh_impl(self)
        if isinstance(self.value, LocalBlocks):
            lowered = mesh_impl.slicewise(tf.identity, mesh_impl.LaidOutTensor(list(self.value.slices)))
        else:
            lowered = mesh_impl.import_tf_tensor(self.outputs[0], self.value)
        lowering.set_tensor_lowering(self.outputs[0], lowered)


def leads_to_differentiable_source(tensor: mtf.Tensor) -> bool:
    """Whether a gradient may flow through a tensor to a differentiable `Source`."""
    operation = tensor.operation
    known = getattr(operation, "_leads_to_source", None)
    if known is None:
        if isinstance(operation, Source):
            known = operation.differentiable
        elif not operation.has_gradient:
            known = False
        else:
            known = any(leads_to_differentiable_source(t) for t in operation.inputs)
        operation._leads_to_source = known
    return known and tensor.dtype.is_floating


def differentiable_inputs(operation: mtf.Operation) -> list[int]:
    return [i for i, t in enumerate(operation.inputs) if leads_to_differentiable_source(t)]
