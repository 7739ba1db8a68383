"""Pictures for notebooks and papers, as matplotlib figures. This module needs the `medical` extra.

Arrays are expected in RAS order (x to the patient's right, y to the front, z up). Pictures are drawn as radiologists
see them, with the patient's right on the left.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from keras_spatial.distribution import SpatialParallel
from keras_spatial.layout import parse_pairs

TRUTH, PREDICTION = "#38bdf8", "#fb923c"
_HALO, _LINE = "#f59e0b", "#0f766e"
_PLANES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
_NAMES = ("x", "y", "z")


def slices(
    image: np.ndarray,
    truth: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    position: Sequence[int] | None = None,
    window: tuple[float, float] | None = None,
) -> Figure:
    """Draw the axial, coronal and sagittal slice through one voxel, with labels outlined.

    Args:
        image: intensities of shape `[X, Y, Z]` or `[X, Y, Z, 1]`, in HU or in any other unit.
        truth: integer labels of shape `[X, Y, Z]`, drawn in blue: class 1 with a thin line, higher classes with a thick
            one.
        prediction: integer labels of shape `[X, Y, Z]`, drawn in orange and dashed.
        spacing: the voxel size along x, y and z in mm, which gives the pictures their proportions.
        position: the voxel through which to cut. By default each of the three slices is the one with the most voxels of
            the highest class of the truth (or else of the prediction), or the middle one if there are no labels.
        window: level and width of the grey scale, in the image's unit; by default it spans the image's 1st to 99th
            percentile.

    Returns:
        A figure with three axes.

    Raises:
        ValueError: if shapes differ or the position lies outside the image.

    Example:

    ```python
    ks.plot.slices(image, segmentation, spacing=(0.8, 0.8, 2.5)).savefig("case.png")
    ```
    """
    volume = _squeezed(image, rank=3)
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels is not None and labels.shape != volume.shape:
            raise ValueError(f"{name}: expected labels of shape {volume.shape}. Received: {labels.shape}")
    place = _interesting(volume, truth if truth is not None else prediction) if position is None else tuple(position)
    if len(place) != 3 or any(not 0 <= p < n for p, n in zip(place, volume.shape, strict=True)):
        raise ValueError(f"position: expected a voxel of shape {volume.shape}. Received: {position}")
    low, high = _grey_scale(volume, window)
    figure = Figure((10.5, 3.9), layout="constrained")
    for axes, (name, (across, down, through)) in zip(figure.subplots(1, 3), _PLANES.items(), strict=True):
        extent = (0, volume.shape[across] * spacing[across], 0, volume.shape[down] * spacing[down])
        cut = _plane(volume, through, place[through])
        axes.imshow(cut, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="bilinear")
        for labels, colour, style in ((truth, TRUTH, "solid"), (prediction, PREDICTION, "dashed")):
            if labels is not None:
                _outline(axes, _plane(labels, through, place[through]), extent, colour, style)
        axes.invert_xaxis()  # the patient's right, or front, on the left
        axes.set_title(f"{name}, slice {place[through] + 1} of {volume.shape[through]}", fontsize=10)
        axes.set_axis_off()
    handles = [Rectangle((0, 0), 1, 1, color=c) for c, x in ((TRUTH, truth), (PREDICTION, prediction)) if x is not None]
    names = [n for n, x in (("truth", truth), ("prediction", prediction)) if x is not None]
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def partition(
    image: np.ndarray,
    distribution: SpatialParallel | str | Mapping[str, int],
    *,
    halo: int | Mapping[str, int] = 1,
    position: int | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    window: tuple[float, float] | None = None,
) -> Figure:
    """Draw how an image lies on a mesh of devices.

    On the left is the image with the mesh drawn over it and the halos tinted; on the right is what each device holds:
    its own shard and the halos that it receives from its neighbours.

    Args:
        image: an image of shape `[X, Y]` or `[X, Y, Z]`, with or without a last axis of one channel.
        distribution: a `ks.SpatialParallel`, or the number of shards along each axis, such as `"x:2, y:4"` or a dict.
        halo: the halo width in voxels, one for all sharded axes or one for each axis name; a 3x3x3 convolution needs 1.
        position: the index of the slice along the axis that is not drawn; by default the middle one. The drawn axes are
            x and y, or z and another axis if z is sharded.
        spacing: the voxel size along each axis in mm.
        window: level and width of the grey scale, in the image's unit; by default it spans the image's 1st to 99th
            percentile.

    Returns:
        A figure with two axes.

    Raises:
        ValueError: if the image does not have two or three axes, all three are sharded, or a shard would be empty.

    Example:

    ```python
    ks.plot.partition(image, "x:2, y:4", halo=2).savefig("partition.png")
    ```
    """
    volume = _squeezed(image)
    shards, labels = _shards(distribution, volume.ndim)
    across, down = _drawn(volume.ndim, shards)
    cut = volume.T
    if volume.ndim == 3:
        through = 3 - across - down
        middle = volume.shape[through] // 2 if position is None else position
        if not 0 <= middle < volume.shape[through]:
            raise ValueError(f"position: expected 0 to {volume.shape[through] - 1}. Received: {position}")
        cut = _plane(volume, through, middle)
    sizes = [volume.shape[across], volume.shape[down]]
    counts = [shards[across], shards[down]]
    lengths = [-(-n // c) for n, c in zip(sizes, counts, strict=True)]
    for axis, n, c, length in zip((across, down), sizes, counts, lengths, strict=True):
        if (c - 1) * length >= n:
            raise ValueError(f"axis {_NAMES[axis]}: expected at most {n} non-empty shards. Received: {c} shards")
    widths = [_halo(halo, axis) if c > 1 else 0 for axis, c in zip((across, down), counts, strict=True)]
    scale = [float(spacing[across]), float(spacing[down])]
    low, high = _grey_scale(volume, window)
    lines = [[k * length for k in range(1, c)] for length, c in zip(lengths, counts, strict=True)]
    bands = [
        [(max(at - w, 0), min(at + w, n)) for at in found] for found, w, n in zip(lines, widths, sizes, strict=True)
    ]
    gaps = [
        0.12 * max(n * s for n, s in zip(sizes, scale, strict=True)) + 2 * w * s
        for w, s in zip(widths, scale, strict=True)
    ]
    figure = Figure((10.5, 5.2), layout="constrained")
    whole, apart = figure.subplots(1, 2)
    look = {"cmap": "gray", "vmin": low, "vmax": high, "origin": "lower", "interpolation": "nearest"}
    _show(whole, cut, [(0, sizes[0]), (0, sizes[1])], scale, (0, 0), look)
    for band in bands[0]:
        _rectangle(whole, [band, (0, sizes[1])], scale, (0, 0), facecolor=_HALO, alpha=0.45, linewidth=0)
    for band in bands[1]:
        _rectangle(whole, [(0, sizes[0]), band], scale, (0, 0), facecolor=_HALO, alpha=0.45, linewidth=0)
    for at in lines[0]:
        whole.plot([at * scale[0]] * 2, [0, sizes[1] * scale[1]], color="white", linewidth=1.5)
    for at in lines[1]:
        whole.plot([0, sizes[0] * scale[0]], [at * scale[1]] * 2, color="white", linewidth=1.5)
    for place in product(*(range(c) for c in counts)):
        own = [(k * length, min((k + 1) * length, n)) for k, length, n in zip(place, lengths, sizes, strict=True)]
        held = [(max(a - w, 0), min(b + w, n)) for (a, b), w, n in zip(own, widths, sizes, strict=True)]
        offset = [k * gap for k, gap in zip(place, gaps, strict=True)]
        _show(apart, cut, held, scale, offset, look)
        _rectangle(apart, held, scale, offset, facecolor=_HALO, alpha=0.45, linewidth=0)
        _show(apart, cut, own, scale, offset, look | {"zorder": 2})
        _rectangle(apart, own, scale, offset, edgecolor=_LINE, linewidth=1.4, fill=False, zorder=3)
        x, y = (sum(pair) / 2 * s + o for pair, s, o in zip(own, scale, offset, strict=True))
        names = [f"{labels[a]} {k}" for a, k, c in zip((across, down), place, counts, strict=True) if c > 1]
        frame = {"facecolor": _LINE, "edgecolor": "none", "alpha": 0.85, "boxstyle": "round,pad=0.25"}
        apart.text(x, y, "\n".join(names), color="white", ha="center", va="center", fontsize=8, bbox=frame, zorder=4)
    for axes, counted, gap in ((whole, (1, 1), (0, 0)), (apart, counts, gaps)):
        for limit, n, s, c, g in zip((axes.set_xlim, axes.set_ylim), sizes, scale, counted, gap, strict=True):
            limit(-0.01 * n * s, 1.01 * n * s + (c - 1) * g)
        if volume.ndim == 3:
            axes.invert_xaxis()  # the patient's right, or front, on the left
        axes.set_aspect("equal")
        axes.set_axis_off()
    whole.set_title(f"one image on {counts[0]} x {counts[1]} devices; the halos are tinted", fontsize=10)
    apart.set_title("what each device holds: its shard and its halos", fontsize=10)
    return figure


def _show(axes: Axes, cut: np.ndarray, spans, scale: Sequence[float], offset, look: Mapping) -> None:
    (left, right), (bottom, top) = spans
    (x0, x1), (y0, y1) = [(a * s + o, b * s + o) for (a, b), s, o in zip(spans, scale, offset, strict=True)]
    axes.imshow(cut[bottom:top, left:right], extent=(x0, x1, y0, y1), **look)


def _squeezed(image: np.ndarray, rank: int | None = None) -> np.ndarray:
    array = np.asarray(image)
    if array.ndim in (3, 4) and array.shape[-1] == 1 and (rank is None or array.ndim == rank + 1):
        array = array[..., 0]
    if array.ndim not in ((rank,) if rank else (2, 3)) or 0 in array.shape:
        wanted = "[X, Y, Z] or [X, Y, Z, 1]" if rank else "[X, Y] or [X, Y, Z], with or without one channel"
        raise ValueError(f"image: expected {wanted}. Received: shape {np.shape(image)}")
    return array


def _plane(volume: np.ndarray, through: int, index: int) -> np.ndarray:
    return np.take(volume, index, axis=through).T


def _grey_scale(volume: np.ndarray, window: tuple[float, float] | None) -> tuple[float, float]:
    if window is not None:
        level, width = window
        return level - width / 2, level + width / 2
    low, high = np.percentile(volume, (1, 99))
    return float(low), float(high if high > low else low + 1)


def _interesting(volume: np.ndarray, labels: np.ndarray | None) -> tuple[int, ...]:
    if labels is None or not labels.any():
        return tuple(n // 2 for n in volume.shape)
    mask = labels == labels.max()
    return tuple(int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3))


def _outline(axes: Axes, labels: np.ndarray, extent: tuple, colour: str, style: str) -> None:
    for lowest, width in ((1, 1.0), (2, 2.0)):
        mask = labels >= lowest
        if mask.any() and not mask.all():
            axes.contour(
                mask, levels=[0.5], colors=colour, linewidths=width, linestyles=style, origin="lower", extent=extent
            )


def _shards(distribution: SpatialParallel | str | Mapping[str, int], rank: int) -> tuple[list[int], list[str]]:
    names = _NAMES[:rank]
    if isinstance(distribution, SpatialParallel):
        return [distribution.shards(n) for n in names], [distribution.layout.get(n, n) for n in names]
    pairs = dict(parse_pairs(distribution, "number of shards"))
    for name, value in pairs.items():
        if name not in names or not value.isdigit() or int(value) < 1:
            raise ValueError(
                f"expected a positive number of shards for each of {', '.join(names)}, such as 'x:2, y:4'. "
                f"Received: {distribution!r}"
            )
    return [int(pairs.get(n, 1)) for n in names], list(names)


def _drawn(rank: int, shards: Sequence[int]) -> tuple[int, int]:
    if rank == 2 or shards[2] == 1:
        return 0, 1
    if shards[0] > 1 and shards[1] > 1:
        received = dict(zip(_NAMES, shards, strict=True))
        raise ValueError(f"a picture shows at most two sharded axes. Received: {received} shards")
    return (0, 2) if shards[1] == 1 else (1, 2)


def _halo(halo: int | Mapping[str, int], axis: int) -> int:
    width = halo.get(_NAMES[axis], 0) if isinstance(halo, Mapping) else halo
    if not isinstance(width, int) or width < 0:
        raise ValueError(f"halo: expected 0 or more voxels. Received: {halo!r}")
    return width


def _rectangle(axes: Axes, spans: Sequence[tuple[int, int]], scale: Sequence[float], offset, **style) -> None:
    (left, right), (bottom, top) = [(a * s + o, b * s + o) for (a, b), s, o in zip(spans, scale, offset, strict=True)]
    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, **style))
