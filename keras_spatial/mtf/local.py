"""A differentiable local operation: any TensorFlow function, run on every slice."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_spatial.mtf.compatibility import mtf
from keras_spatial.mtf.halo import Halo, exchange, exchange_adjoint


class LocalOperation(mtf.Operation):
    """Outputs are a TensorFlow function of the inputs, slice by slice.

    An output that lacks a split axis of the inputs is a partial sum, and is summed over that axis of the mesh: so
    `fn = tf.reduce_sum` with a scalar output is the sum over the whole image. The gradient follows from the same rule
    read backwards: the gradient of an input that lacks a split axis of the others (a weight, say) is summed over it.

    Args:
        fn: from the inputs' slices (`tf.Tensor`s) to a tuple of the outputs' slices. With `coordinates`, its first
            argument is the list of the slice's coordinates.
        inputs: Mesh-TF tensors.
        outputs: shape and dtype of every output.
        halos: margins of the first input that `fn` sees, exchanged in this order.
        coordinates: mesh axes whose coordinates `fn` gets.
        reduction: `"SUM"`, or `"MAX"` for partial maxima; those have no gradient.
        recompute: run `fn` again in the backward pass instead of keeping what it computed in the forward pass. For
            functions that make copies of their input, such as assembling it with its margins, this is what keeps only
            one copy alive.
        name: a name for the graph.
    """

    def __init__(
        self,
        fn: Callable[..., tuple[tf.Tensor, ...]],
        inputs: Sequence[mtf.Tensor],
        outputs: Sequence[tuple[mtf.Shape, tf.DType]],
        *,
        halos: Sequence[Halo] = (),
        coordinates: Sequence[int] = (),
        reduction: str = "SUM",
        recompute: bool = False,
        name: str = "local",
    ):
        super().__init__(list(inputs), name=name)
        self._outputs = [mtf.Tensor(self, shape, dtype) for shape, dtype in outputs]
        self._splittable_dims, self._unsplittable_dims = self._initialize_all_dimensions_as_splittable()
        self.fn = fn
        self.halos = [halo for halo in halos if halo.before or halo.after]
        self.coordinates = list(coordinates)
        self.reduction = reduction
        self.recompute = recompute or bool(self.halos)
        self.tapes = None
        for output in self._outputs:
            leads_to_differentiable_source(output)  # Asked in forward order, so that it never recurses deeply.

    def run(self, mesh_impl: mtf.MeshImpl, lowered_inputs: Sequence, watched: Sequence[int]):
        """The laid-out outputs and, where `watched` names inputs, the laid-out tapes that know their gradients."""
        x, *others = lowered_inputs
        for halo in self.halos:
            x = exchange(mesh_impl, x, halo)
        places = [mesh_impl.laid_out_pcoord(axis) for axis in self.coordinates]

        def on_slice(*arguments):
            place, tensors = list(arguments[: len(places)]), list(arguments[len(places) :])
            tensors = [tf.convert_to_tensor(t) for t in tensors]
            # Persistent, since TensorFlow may build the backward pass of one function more than once.
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tensors = _distinct(tensors, watched)
                sources = [tensors[i] for i in watched]
                tape.watch(sources)
                results = self.fn(place, *tensors) if self.coordinates else self.fn(*tensors)
            return (*results, _Tape(tape, sources, results))

        *results, tapes = mesh_impl.slicewise(on_slice, *places, x, *others)
        return results, tapes

    def lower(self, lowering: mtf.Lowering) -> None:
        mesh_impl = lowering.mesh_impl(self)
        watched = [] if self.recompute else differentiable_inputs(self)
        results, self.tapes = self.run(mesh_impl, [lowering.tensors[t] for t in self.inputs], watched)
        own_axes = _split_axes(mesh_impl, self.inputs)
        for output, result in zip(self.outputs, results, strict=True):
            missing = own_axes - _split_axes(mesh_impl, [output])
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
        operation = _LocalGradient(self, grad_ys, wanted)
        gradients = dict(zip(wanted, operation.outputs, strict=True))
        return [gradients.get(i) for i in range(len(self.inputs))]


class _LocalGradient(mtf.Operation):
    def __init__(self, forward: LocalOperation, grad_ys: Sequence[mtf.Tensor | None], wanted: Sequence[int]):
        self.forward = forward
        self.known = [i for i, dy in enumerate(grad_ys) if dy is not None]
        self.wanted = list(wanted)
        inputs = forward.inputs + [grad_ys[i] for i in self.known]
        super().__init__(inputs, mesh=forward.mesh, name=forward.name.split("/")[-1] + "_gradient")
        self._outputs = [mtf.Tensor(self, forward.inputs[i].shape, forward.inputs[i].dtype) for i in self.wanted]

    def lower(self, lowering: mtf.Lowering) -> None:
        mesh_impl = lowering.mesh_impl(self)
        forward = self.forward
        grad_ys = [lowering.tensors[t] for t in self.inputs[len(forward.inputs) :]]
        tapes = forward.tapes
        if forward.recompute:
            lowered = [lowering.tensors[t] for t in forward.inputs]
            lowered[0] = _after(mesh_impl, lowered[0], grad_ys[0])
            _, tapes = forward.run(mesh_impl, lowered, self.wanted)

        def on_slice(tape: _Tape, *dys: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return tape.gradient(self.known, dys)

        results = mesh_impl.slicewise(on_slice, tapes, *grad_ys)
        own_axes = _split_axes(mesh_impl, forward.inputs + forward.outputs)
        for i, output, result in zip(self.wanted, self.outputs, results, strict=True):
            if i == 0:
                for halo in reversed(forward.halos):
                    result = exchange_adjoint(mesh_impl, result, halo)
            missing = own_axes - _split_axes(mesh_impl, [forward.inputs[i]])
            if missing:
                result = mtf.LazyAllreduceSum(mesh_impl, result, sorted(missing))
            lowering.set_tensor_lowering(output, result)


class _Tape:
    """What one slice needs to differentiate its results."""

    def __init__(self, tape: tf.GradientTape, sources: list[tf.Tensor], targets: Sequence[tf.Tensor]):
        self._tape, self._sources, self._targets = tape, sources, targets

    def gradient(self, known: Sequence[int], dys: Sequence[tf.Tensor]) -> tuple[tf.Tensor, ...]:
        return tuple(
            self._tape.gradient(
                [self._targets[i] for i in known],
                self._sources,
                output_gradients=list(dys),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        )


def _distinct(tensors: list[tf.Tensor], watched: Sequence[int]) -> list[tf.Tensor]:
    """The tensors, with copies of those that stand in more than one place: a tape could not tell the places apart."""
    seen: set[int] = set()
    result = list(tensors)
    for i in watched:
        if id(result[i]) in seen:
            result[i] = tf.identity(result[i])
        seen.add(id(result[i]))
    return result


def _after(mesh_impl: mtf.MeshImpl, x, dy):
    """`x`, available only once `dy` is: what is computed from it again is then not merged with the forward pass."""

    def on_slice(x: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([dy]):
            return tf.identity(x)

    return mesh_impl.slicewise(on_slice, x, dy)


def _split_axes(mesh_impl: mtf.MeshImpl, tensors: Sequence[mtf.Tensor]) -> set[int]:
    axes = {axis for t in tensors for axis in mesh_impl.tensor_layout(t).tensor_axis_to_mesh_axis}
    return axes - {None}


class Source(mtf.Operation):
    """A `tf.Tensor` brought onto the mesh.

    Args:
        mesh: the Mesh-TF mesh.
        value: the tensor, of the whole shape.
        shape: its Mesh-TF shape.
        differentiable: whether a gradient with respect to it will be asked for; backward operations that lead to no
            such source are never built.
        name: a name for the graph.
    """

    def __init__(self, mesh: mtf.Mesh, value: tf.Tensor, shape: mtf.Shape, *, differentiable: bool, name: str):
        super().__init__([], mesh=mesh, name=name)
        self.value = value
        self.differentiable = differentiable
        self._outputs = [mtf.Tensor(self, shape, value.dtype)]

    def lower(self, lowering: mtf.Lowering) -> None:
        lowered = lowering.mesh_impl(self).import_tf_tensor(self.outputs[0], self.value)
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
