"""Random numbers by position: any part of a random volume can be computed by itself, on any process, in any order."""

from collections.abc import Sequence

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_64 = 0xFFFFFFFFFFFFFFFF
# Positions per axis: 2^20, more than any image has.
_BITS = 20


def hashed(values: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).

    Args:
        values: uint64, any shape.
        seed: any integer.

    Returns:
        uint64, same shape: 64 random bits for each value, the same on every machine.
    """
    with np.errstate(over="ignore"):
        z = values * np.uint64(_GOLDEN) + np.uint64((seed * _GOLDEN) & _64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def normal(seed: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
    """Near-normal white noise, mean 0 and variance 1, of the voxels from `start` to `stop` of an unbounded volume.

    The sum of four uniform 16-bit numbers for each voxel, so that no library's logarithm is involved.

    Args:
        seed: chooses the volume.
        start, stop: three integers from 0 to 2^20 each; `stop` lies behind the last voxel.

    Returns:
        float32 `[stop - start]`.
    """
    x, y, z = (np.arange(a, b).astype(np.uint64) for a, b in zip(start, stop, strict=True))
    key = (x[:, None, None] << np.uint64(2 * _BITS)) + (y[:, None] << np.uint64(_BITS)) + z
    bits = hashed(key, seed)
    total = np.zeros(bits.shape, np.int32)
    for shift in (0, 16, 32, 48):
        total += ((bits >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int32)
    return (total - np.int32(2 * 0xFFFF)).astype(np.float32) * np.float32(1 / (65536 * np.sqrt(4 / 12)))
