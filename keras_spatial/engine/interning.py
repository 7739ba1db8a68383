"""Interning of local functions: if several compute the same, only one is kept.

A network repeats its layers, and each layer has its own functions. TensorFlow prepares every function of a step for
every device, and each costs memory for as long as the step lives. In MobileNetV2 on 2x2 devices with 64² pixels, 609 of
1503 functions were different, and the first step added 822 MB instead of 1179 MB.

Functions that are known to be the same before they are traced (`engine.identity`) are traced once in a process, as long
as a step that calls them lives; of the others in a step, equal definitions are found afterwards.
"""

import hashlib
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import keras
import tensorflow as tf

# A private module of TensorFlow: it has no public name for the question.
from tensorflow.python.framework.config import is_op_determinism_enabled

from keras_spatial.runtimes.functions import DerivativeFunction, Prepared, SharedFunction, signature_of

# The attribute of a graph that maps digests of definitions to functions. The graph holds on to its functions anyway.
_KNOWN = "_interned_functions"
# The attribute that holds the functions whose identity is known. A model's steps, and models that are alive at the same
# time, share these.
_CALLED = "_called_functions"
_traced: weakref.WeakValueDictionary[Hashable, Prepared] = weakref.WeakValueDictionary()
_Interned = weakref.WeakKeyDictionary[tf.Graph, dict[Prepared, Prepared]]


def interned(prepared: Prepared) -> Prepared:
    """A function with the same definition that the current graph calls already, or else this one.

    Everything in the definitions is compared, including constants and attributes, except for the function's own name. A
    function that captures tensors of another graph belongs to that graph and is returned unchanged.
    """
    concrete = prepared.concrete
    if concrete.captured_inputs:
        return prepared
    definition = type(concrete.function_def)()
    definition.CopyFrom(concrete.function_def)
    definition.signature.name = ""
    key = hashlib.sha256(definition.SerializeToString(deterministic=True)).digest()
    known = _kept_by(tf.compat.v1.get_default_graph(), _KNOWN)
    return Prepared(known.setdefault(key, concrete), prepared.used)


def _settings() -> tuple:
    """What functions may read while they are traced that is neither in their code nor in what they close over."""
    of_keras = keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format()
    return *of_keras, is_op_determinism_enabled()


def _kept_by(graph: tf.Graph, name: str) -> dict[Any, Any]:
    if not hasattr(graph, name):
        setattr(graph, name, {})
    return getattr(graph, name)


class InternedFunction(SharedFunction):
    """A `SharedFunction` that calls an earlier function of the same definition, if the graph has one.

    Args:
        function: as for `SharedFunction`.
        identity: a value that is equal for functions that compute the same; only the first of these is traced. None if
            it is not known.
    """

    def __init__(self, function: Callable[..., Sequence[tf.Tensor]], identity: Hashable | None = None):
        super().__init__(function)
        self._identity = identity
        self._interned: _Interned = weakref.WeakKeyDictionary()

    def prepared(self, arguments: Sequence[Any]) -> Prepared:
        if tf.executing_eagerly():
            return super().prepared(arguments)  # There is no graph that could already have the function.
        if self._identity is None:
            return self._of_definition(arguments)
        key = (self._identity, signature_of(arguments), _settings())
        prepared = _traced.get(key)
        if prepared is None:
            prepared = self._of_definition(arguments)
            if prepared.concrete.captured_inputs:
                return prepared  # It captures tensors from outside, so it computes something of its own.
            _traced[key] = prepared
        _kept_by(tf.compat.v1.get_default_graph(), _CALLED)[key] = prepared
        return prepared

    def _of_definition(self, arguments: Sequence[Any]) -> Prepared:
        prepared = super().prepared(arguments)
        known = self._interned.setdefault(tf.compat.v1.get_default_graph(), {})
        if prepared not in known:
            known[prepared] = interned(prepared)
        return known[prepared]


class InternedDerivative(InternedFunction, DerivativeFunction):
    """A `DerivativeFunction` that calls an earlier function of the same definition, if the graph has one."""

    def __init__(self, *arguments: Any, identity: Hashable | None = None, **options: Any):
        DerivativeFunction.__init__(self, *arguments, **options)
        self._identity = identity
        self._interned = weakref.WeakKeyDictionary()
