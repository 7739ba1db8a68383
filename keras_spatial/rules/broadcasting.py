"""Sums of tensors of different shapes, as Keras understands them."""

from collections.abc import Sequence


def check_sum(first: Sequence[int], second: Sequence[int]) -> None:
    """Refuse a sum that Keras computes in another way than by broadcasting.

    On TensorFlow, `keras.ops.add` treats a second tensor with a single axis longer than 1 as a bias if that axis is as
    long as axis 1 or the last axis of the first tensor, and adds it along that axis, whichever axis its shape means.
    The batch axis never matches, because Keras does not know its size while it traces `fit`.

    Args:
        first, second: the logical shapes; `()` for a number.

    Raises:
        ValueError: if Keras would add the second tensor along another axis than broadcasting does.
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
            f"Keras treats the second tensor of this sum as a bias along axis {taken}, although its shape puts it "
            f"along axis {axis}. Give it the whole shape of the first tensor with keras.ops.broadcast_to. Received: "
            f"shapes {tuple(first)} and {tuple(second)}"
        )
