"""The phantom as a TFDS data set: blocks that are computed separately equal those of the whole volume."""

import numpy as np
import pytest

from datasets.phantom import patient, render
from datasets.phantom.phantom_dataset_builder import Builder, PhantomConfig


def build(folder, **config):
    builder = Builder(config=PhantomConfig(resolution=16, cases=(2, 1, 1), **config), data_dir=str(folder))
    builder.download_and_prepare()
    return builder


def test_blocks_and_wholes_are_the_same_patients(tmp_path):
    whole, blocks = build(tmp_path), build(tmp_path, blocks=(2, 1, 2))
    for split, first in (("train", 0), ("validation", 2), ("test", 3)):
        pairs = zip(whole.as_dataset(split), blocks.as_dataset(split), strict=True)
        for number, (ours, theirs) in enumerate(pairs, first):
            np.testing.assert_array_equal(ours["image"], theirs["image"])
            np.testing.assert_array_equal(ours["label"], render(patient(number), (16,) * 3)[1])


@pytest.mark.parametrize(
    "arguments, message",
    [({"resolution": 8}, "resolution=8"), ({"blocks": (3, 1, 1)}, "blocks=3x1x1"), ({"cases": (1, 0, 1)}, "cases=")],
)
def test_wrong_configurations_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PhantomConfig(**arguments)
