"""Random fields that are the same on every machine and can be computed for any part of a volume by itself.

They use only integer hashes, and additions, multiplications, divisions and square roots of single voxels, which IEEE
754 rounds exactly. Sines, sums and matrix products of libraries differ between processors in the last bit.
"""

from collections.abc import Sequence

import numpy as np

from keras_spatial.data.hashing import hashed


def smooth(seed: int, wavelength: float, *axes: np.ndarray) -> np.ndarray:
    """Value noise: random values on a lattice of `wavelength` mm, interpolated with a continuous slope.

    Args:
        seed: the number that selects the field.
        wavelength: the spacing of the lattice in mm.
        axes: three increasing arrays of positions in mm, above -8192 lattice steps.

    Returns:
        A float64 array `[len(x), len(y), len(z)]` of values from -1 to 1.
    """
    steps = [axis / wavelength for axis in axes]
    first = [int(np.floor(step[0])) for step in steps]
    count = [int(np.floor(step[-1])) - low + 2 for step, low in zip(steps, first, strict=True)]
    index = [
        (np.arange(n) + (low + 8192)).astype(np.uint64).reshape([-1 if a == axis else 1 for a in range(3)])
        for axis, (n, low) in enumerate(zip(count, first, strict=True))
    ]
    key = (index[0] << np.uint64(28)) + (index[1] << np.uint64(14)) + index[2]
    field = (hashed(key, seed) >> np.uint64(40)).astype(np.float64) / float(1 << 23) - 1.0
    for axis, (step, low) in enumerate(zip(steps, first, strict=True)):
        cell = np.floor(step).astype(np.intp)
        t = step - cell
        t = (t * t * (3.0 - 2.0 * t)).reshape([-1 if a == axis else 1 for a in range(3)])
        left = np.take(field, cell - low, axis)
        right = np.take(field, cell - low + 1, axis)
        field = left + (right - left) * t
    return field


def grain(seed: int, start: Sequence[int], stop: Sequence[int]) -> np.ndarray:
    """Noise of unit variance that is correlated between neighbouring voxels of a slice, as after CT reconstruction.

    It consists of sums of four uniform numbers, which are nearly Gaussian, weighted 1-2-1 along x and y.

    Args:
        seed: the number that selects the field.
        start: the first voxel, three integers from 0 to 2^20.
        stop: the voxel after the last one, three integers likewise.

    Returns:
        A float64 array of shape `stop - start`.
    """
    shape = [b - a for a, b in zip(start, stop, strict=True)]
    index = [
        (np.arange(n + 2 * margin) + a + (1 << 10) - margin)
        .astype(np.uint64)
        .reshape([-1 if k == axis else 1 for k in range(3)])
        for axis, (a, n, margin) in enumerate(zip(start, shape, (1, 1, 0), strict=True))
    ]
    bits = hashed((index[0] << np.uint64(42)) + (index[1] << np.uint64(21)) + index[2], seed)
    mask = np.uint64(0xFFFF)
    white = np.zeros(bits.shape, np.int64)
    for shift in (0, 16, 32, 48):
        white += ((bits >> np.uint64(shift)) & mask).astype(np.int64)
    white -= 2 * 65535
    rows = white[:-2] + 2 * white[1:-1] + white[2:]
    both = rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]
    # The variance of 4 uniform numbers of 2^16 values, times the squared weights (1 + 4 + 1)^2.
    return both / (65536.0 * np.sqrt(4.0 / 12.0) * 6.0)
