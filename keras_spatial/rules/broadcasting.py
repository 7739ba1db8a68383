"""Sums of tensors of different shapes, as Keras understands them."""

from collections.abc import Sequence


def check_sum(first: Sequence[int], second: Sequence[int]) -> None:
    """Refuse a sum that Keras computes in another way than by broadcasting.

    On TensorFlow `keras.ops.add` takes a second tensor with a single axis longer than 1 for a bias where that is as
    long as the first one's axis 1 or its last axis, and adds it along that one, whichever axis it is meant for. A batch
    is no such case, since Keras does not know its size while it traces `fit`.

    Args:
        first, second: the logical shapes; `()` for a number.

    Raises:
        ValueError: if the second one would be added along another axis than by broadcasting.
    """
    long = [i for i, size in enumerate(second) if size is None or size > 1]
    if len(long) != 1 or len(first) < 2 or second[long[0]] is None:
        return
    size, axis = second[long[0]], len(first) - len(second) + long[0]
    if axis <= 0 or size not in (first[1], first[-1]):
        return
    taken = len(first) - 1 if first[-1] == size else 1
    if axis != taken:
        raise ValueError(
            f"Keras takes the second tensor of this sum for a bias along axis {taken}, though its shape puts it along "
            f"axis {axis}. Give it the first one's whole shape, by keras.ops.broadcast_to. Received: shapes "
            f"{tuple(first)} and {tuple(second)}"
        )
