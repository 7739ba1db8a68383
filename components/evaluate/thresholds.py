"""The Dice of the best intensity thresholds on held-out cases, for comparison with a network's."""

import json
from collections.abc import Sequence

from components.evaluate.truth import HeldOut
from datasets.phantom.thresholding import Histogram, best_band, dice, histogram
from keras_spatial import processes
from keras_spatial.volumes.files import read_slabs


def threshold_dice(train: Sequence[HeldOut], test: Sequence[HeldOut]) -> dict[str, float]:
    """The mean Dice per case, on cases of LiTS, of the bands of HU that are best on other cases.

    Every process must call it with the same arguments. Each of N processes reads every Nth case, a few planes at a
    time.

    Args:
        train: the cases on which the bands are chosen.
        test: the cases on which the bands are scored.

    Returns:
        The Dice of "liver" and of "lesion".
    """
    learned, held_out = _histograms("train", train), _histograms("test", test)
    return {
        part: dice(held_out, best_band(learned, lesion), lesion)
        for part, lesion in (("liver", False), ("lesion", True))
    }


def _histograms(split: str, cases: Sequence[HeldOut]) -> list[Histogram]:
    """The histograms of all cases in their order, which are the same in all processes."""
    job = processes.current()
    own = {number: _histogram(cases[number]).as_json() for number in range(job.rank, len(cases), job.count)}
    found: dict[int, Histogram] = {}
    for theirs in job.exchange(f"histograms of the split {split}", json.dumps(own)):
        found |= {int(number): Histogram.of_json(value) for number, value in json.loads(theirs).items()}
    return [found[number] for number in range(len(cases))]


def _histogram(case: HeldOut) -> Histogram:
    return histogram(zip(read_slabs(case.image), read_slabs(case.label), strict=True))
