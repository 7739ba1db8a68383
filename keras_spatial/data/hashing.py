"""Random numbers by position: any part of a random volume can be computed on its own, in any process and order."""

from collections.abc import Sequence

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_64 = 0xFFFFFFFFFFFFFFFF
# There are 2^20 positions along each axis, more than any image has.
_BITS = 20


def hashed(values: np.ndarray, seed: int) -> np.ndarray:
    """Hash integers by SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).

    Args:
        values: a uint64 array of any shape.
        seed: any integer.

    Returns:
        A uint64 array of the same shape with 64 random bits for each value, the same on every machine.
    """
    with np.errstate(over="ignore"):
        z = values * np.uint64(_GOLDEN) + np.uint64((seed * _GOLDEN) & _64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def normal(seed: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
    """Nearly normal white noise, with mean 0 and variance 1, for the voxels `start` to `stop` of an unbounded volume.

    It is the sum of four uniform 16-bit numbers for each voxel, so that it does not depend on a library's logarithm.

    Args:
        seed: the seed, which selects the volume.
        start, stop: three integers from 0 to 2^20 each; `stop` is one after the last voxel.

    Returns:
        A float32 array of shape `stop - start`.
    """
    x, y, z = (np.arange(a, b).astype(np.uint64) for a, b in zip(start, stop, strict=True))
    key = (x[:, None, None] << np.uint64(2 * _BITS)) + (y[:, None] << np.uint64(_BITS)) + z
    bits = hashed(key, seed)
    total = np.zeros(bits.shape, np.int32)
    for shift in (0, 16, 32, 48):
        total += ((bits >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int32)
    return (total - np.int32(2 * 0xFFFF)).astype(np.float32) * np.float32(1 / (65536 * np.sqrt(4 / 12)))
