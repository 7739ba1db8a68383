"""The U-Nets refuse invalid arguments before Keras fails inside them."""

import pytest

import keras_spatial as ks


@pytest.mark.parametrize(
    ("build", "shape", "wanted"),
    [(ks.models.UNet3D, (48, 40, 36, 2), r"\(48, 40, 40\)"), (ks.models.UNet2D, (None, 20, 1), r"\(None, 24\)")],
)
def test_sizes_that_cannot_be_halved_are_named_with_those_that_can(build, shape, wanted):
    with pytest.raises(ValueError, match=rf"multiple of 8.*{wanted}.*Received: input_shape"):
        build(shape, classes=3)


def test_fewer_levels_take_such_sizes():
    assert ks.models.UNet3D((48, 40, 36, 2), classes=3, filters=2, levels=3).output_shape == (None, 48, 40, 36, 3)
