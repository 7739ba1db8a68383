"""Metrics of a data set, with bootstrap intervals over its cases, and detection by lesion size.

Every LiTS metric of a data set is a ratio of two sums over cases (so is a mean per case), so the same bootstrap serves
all of them: cases are drawn with replacement, and sums and ratio are computed again. Cases are drawn and not lesions,
because the lesions of a patient resemble each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np

from keras_spatial.evaluation.cases import CaseMetrics
from keras_spatial.evaluation.masks import UNDEFINED, MaskMetrics

MASK_METRICS = ("dice", "voe", "rvd", "assd", "rmsd", "msd")
DIAMETERS = (0.0, 5.0, 10.0, 20.0, np.inf)
"""The boundaries of the size strata in mm. RECIST 1.1 calls lesions of at least 10 mm measurable."""


@dataclass(frozen=True)
class Estimate:
    """The estimate of one metric of a data set.

    Attributes:
        value: the value as LiTS computes it; for the metrics of any classes it equals `defined`. None if there was
            nothing to average.
        low: the lower end of the bootstrap percentile interval of `defined`; None if there are fewer than two cases.
        high: the upper end of that interval, likewise.
        defined: the mean without undefined entries; equal to `value` if `undefined` is 0.
        count: the number of entries (cases or lesions), including undefined ones.
        undefined: the number of undefined entries, which LiTS counts as 9001.
    """

    value: float | None
    low: float | None
    high: float | None
    defined: float | None
    count: int
    undefined: int = 0


@dataclass(frozen=True)
class Stratum:
    """The detection of reference lesions of one size class.

    Attributes:
        above: the least equivalent diameter in mm, which the class includes.
        below: the equivalent diameter in mm at which the class ends.
        lesions: the number of these lesions.
        recall: the fraction of them that is detected with overlap > 0.5.
        recall_touched: the fraction of them that the prediction touches at all.
    """

    above: float
    below: float
    lesions: int
    recall: Estimate
    recall_touched: Estimate


@dataclass(frozen=True)
class Summary:
    """The metrics of a data set.

    Attributes:
        cases: the number of cases.
        metrics: the estimates by name: `liver_dice_per_case`, `liver_dice_global`, `liver_voe`, `liver_rvd`,
            `liver_assd`, `liver_rmsd`, `liver_msd`; `lesion_dice_per_case`, `lesion_dice_global`; `lesion_dice`,
            `lesion_voe`, ... (means over detected lesions); `lesion_precision`, `lesion_recall` (overlap > 0.5) and
            `..._greater_zero`; `tumour_burden_rmse`, `tumour_burden_max`.
        strata: the detection of lesions by size.
        confidence: the confidence level of the intervals.
        samples: the number of bootstrap samples.
    """

    cases: int
    metrics: dict[str, Estimate]
    strata: tuple[Stratum, ...]
    confidence: float
    samples: int

    def as_dict(self) -> dict:
        """The summary as plain dicts, lists and numbers, for JSON; the upper end of the largest size class is None."""
        result = asdict(self)
        for stratum in result["strata"]:
            stratum["below"] = None if np.isinf(stratum["below"]) else stratum["below"]
        return result


@dataclass(frozen=True)
class _Sums:
    """The numerator and denominator of a ratio for each case. `count` includes the `undefined` entries, which are left
    out.
    """

    numerator: np.ndarray
    denominator: np.ndarray
    count: int
    undefined: int = 0


def summarise(cases: Sequence[CaseMetrics], *, confidence: float = 0.95, samples: int = 2000, seed: int = 0) -> Summary:
    """Summarise the metrics of the cases of a data set.

    Args:
        cases: at least one case.
        confidence: the confidence level of the intervals, between 0 and 1.
        samples: the number of bootstrap samples.
        seed: the seed of the bootstrap; equal seeds give equal intervals.

    Raises:
        ValueError: if there are no cases, or the confidence is not between 0 and 1.

    Example:

    ```python
    summary = ks.evaluation.summarise(cases)
    print(summary.metrics["lesion_dice_per_case"].value)
    ```
    """
    if not cases:
        raise ValueError("summarise: expected at least one case. Received: none")
    if not 0 < confidence < 1 or samples < 1:
        raise ValueError(
            f"summarise: expected 0 < confidence < 1 and samples >= 1. "
            f"Received: confidence={confidence}, samples={samples}"
        )

    def estimate(sums: _Sums, transform: Callable[[np.ndarray], np.ndarray] = _same) -> Estimate:
        return _estimate(sums, transform, confidence, samples, seed)

    metrics: dict[str, Estimate] = {}
    for part in ("liver", "lesion"):
        masks = [[getattr(case, part)] for case in cases]
        metrics[f"{part}_dice_per_case"] = estimate(_entries(masks, "dice"))
        metrics[f"{part}_dice_global"] = estimate(_global_dice(masks))
    for part, masks in (
        ("liver", [[case.liver] for case in cases]),
        ("lesion", [list(case.lesions.pairs) for case in cases]),
    ):
        for name in MASK_METRICS if part == "lesion" else MASK_METRICS[1:]:
            metrics[f"{part}_{name}"] = estimate(_entries(masks, name))
    for suffix, flag in (("", "detected"), ("_greater_zero", "touched")):
        for name, side in (("precision", "predicted"), ("recall", "reference")):
            flags = [[getattr(lesion, flag) for lesion in getattr(case.lesions, side)] for case in cases]
            metrics[f"lesion_{name}{suffix}"] = _zero_if_empty(estimate(_share(flags)))
    burden = _burden_errors(cases)
    metrics["tumour_burden_rmse"] = estimate(replace(burden, numerator=burden.numerator**2), np.sqrt)
    metrics["tumour_burden_max"] = _largest(burden)
    return Summary(len(cases), metrics, _strata(cases, estimate), confidence, samples)


def estimate_mean(values: Sequence[float | None], *, confidence: float, samples: int, seed: int) -> Estimate:
    """The mean over the cases with its bootstrap interval. Values of None are left out and counted as undefined.

    Args:
        values: one value for each case; None if it does not exist.
        confidence: the confidence level of the interval.
        samples: the number of bootstrap samples.
        seed: the seed of the bootstrap.
    """
    known = np.array([v is not None for v in values], float)
    sums = _Sums(np.array([v or 0.0 for v in values]), known, len(values), 0)
    return replace(_estimate(sums, _same, confidence, samples, seed), undefined=int(len(values) - known.sum()))


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    # A sample without any entry (no lesion detected in the drawn cases) has no value.
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sum(numerator, -1) / np.sum(denominator, -1)


def _estimate(
    sums: _Sums, transform: Callable[[np.ndarray], np.ndarray], confidence: float, samples: int, seed: int
) -> Estimate:
    known = float(np.sum(sums.denominator))
    if known == 0:
        return Estimate(UNDEFINED if sums.undefined else None, None, None, None, sums.count, sums.undefined)
    defined = float(transform(_ratio(sums.numerator, sums.denominator)))
    value = (defined * known + UNDEFINED * sums.undefined) / (known + sums.undefined) if sums.undefined else defined
    low = high = None
    if len(sums.numerator) > 1:
        n = len(sums.numerator)
        times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=samples).astype(float)
        drawn = transform(_ratio(times * sums.numerator, times * sums.denominator))
        tail = (1 - confidence) / 2
        low, high = (float(q) for q in np.nanquantile(drawn, (tail, 1 - tail)))
    return Estimate(value, low, high, defined, sums.count, sums.undefined)


def _entries(masks: Sequence[Sequence[MaskMetrics]], name: str) -> _Sums:
    values = [[getattr(mask, name) for mask in case] for case in masks]
    known = [[v for v in case if v != UNDEFINED] for case in values]
    count = sum(map(len, values))
    left_out = count - sum(map(len, known))
    return _Sums(np.array([sum(k) for k in known], float), np.array([len(k) for k in known], float), count, left_out)


def _global_dice(masks: Sequence[Sequence[MaskMetrics]]) -> _Sums:
    pairs = [case[0] for case in masks]
    return _Sums(
        np.array([2 * m.intersection for m in pairs], float),
        np.array([m.predicted + m.reference for m in pairs], float),
        len(pairs),
    )


def _share(flags: Sequence[Sequence[bool]]) -> _Sums:
    return _Sums(
        np.array([sum(f) for f in flags], float), np.array([len(f) for f in flags], float), sum(map(len, flags))
    )


def _zero_if_empty(estimate: Estimate) -> Estimate:
    # In LiTS, precision and recall are 0 if there are no lesions.
    return Estimate(0.0, None, None, 0.0, 0) if estimate.count == 0 else estimate


def _burden_errors(cases: Sequence[CaseMetrics]) -> _Sums:
    errors = [
        0.0 if c.burden_prediction is None or c.burden_truth is None else abs(c.burden_truth - c.burden_prediction)
        for c in cases
    ]
    known = [c.burden_prediction is not None and c.burden_truth is not None for c in cases]
    return _Sums(np.array(errors), np.array(known, float), len(cases), known.count(False))


def _largest(burden: _Sums) -> Estimate:
    known = burden.numerator[burden.denominator > 0]
    value = float(known.max()) if known.size else None
    # There is no interval, because the bootstrap is not valid for a maximum.
    return Estimate(value, None, None, value, len(burden.numerator), burden.undefined)


def _strata(cases: Sequence[CaseMetrics], estimate: Callable[[_Sums], Estimate]) -> tuple[Stratum, ...]:
    result = []
    for above, below in pairwise(DIAMETERS):
        lesions = [[x for x in case.lesions.reference if above <= x.diameter < below] for case in cases]
        result.append(
            Stratum(
                above,
                float(below),
                sum(map(len, lesions)),
                estimate(_share([[x.detected for x in case] for case in lesions])),
                estimate(_share([[x.touched for x in case] for case in lesions])),
            )
        )
    return tuple(result)
