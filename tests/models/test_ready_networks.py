"""The ready-made networks are the same on a mesh as on one device, and have the parts of their papers."""

import keras
import pytest
from equality import assert_equal_to_keras, split

import keras_spatial as ks

SMALL = {"filters": 2, "levels": 3}
NETWORKS = {
    "unet_instance": (
        lambda: ks.models.UNet3D((16, 8, 12, 1), 3, normalization="instance", dropout=0.0, **SMALL),
        "2x2",
    ),
    "residual_unet": (lambda: ks.models.ResidualUNet3D((16, 8, 12, 1), 3, blocks=(1, 2, 1), **SMALL), "2x2"),
    # With fewer than eight filters plain Keras is no reference: see rules/test_convolution.py.
    "residual_unet_2d": (lambda: ks.models.ResidualUNet2D((24, 20, 2), 3, filters=8, levels=3), "3x1"),
    "vnet": (lambda: ks.models.VNet3D((8, 12, 8, 1), 2, filters=2, levels=2), "1x2"),
    "vnet_2d_normalized": (
        lambda: ks.models.VNet2D((24, 20, 2), 2, normalization="batch", kernel_size=3, **SMALL),
        "2x2",
    ),
    "attention_unet": (lambda: ks.models.AttentionUNet3D((16, 12, 8, 1), 3, **SMALL), "2x1x2"),
    "attention_unet_2d": (lambda: ks.models.AttentionUNet2D((24, 20, 2), 3, normalization=None, **SMALL), "2x3"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_network_equals_keras_on_a_mesh(name):
    keras.utils.set_random_seed(3)
    make, mesh = NETWORKS[name]
    assert_equal_to_keras(make(), split(mesh), training=True)


def test_every_decoder_level_of_the_residual_unet_predicts_at_full_resolution():
    model = ks.models.ResidualUNet3D((16, 16, 16, 1), 3, filters=2, levels=4)
    assert model.output_names == ["classes", "supervised1", "supervised2"]
    assert set(model.output_shape) == {(None, 16, 16, 16, 3)}
    alone = ks.models.ResidualUNet3D((16, 16, 16, 1), 3, filters=2, levels=4, deep_supervision=False)
    assert alone.output_shape == (None, 16, 16, 16, 3)


def test_the_residual_encoder_has_as_many_blocks_as_nnunets():
    model = ks.models.ResidualUNet3D((32, 32, 32, 1), 3, filters=2)
    sums = [layer.name for layer in model.layers if layer.name.endswith("_sum")]
    assert [sum(name.startswith(f"down{level}_") for name in sums) for level in range(6)] == [1, 3, 4, 6, 6, 6]


@pytest.mark.parametrize(
    "make", [ks.models.ResidualUNet3D, ks.models.VNet3D, ks.models.AttentionUNet3D, ks.models.UNet3D]
)
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"input_shape": (20, 16, 16, 1)}, "multiple of 8"),
        ({"input_shape": (16, 16, 1)}, "3 image axes"),
        ({"filters": 0}, "filters must be a positive integer. Received: filters=0"),
        ({"dropout": 1.0}, "dropout must be"),
    ],
)
def test_arguments_out_of_range_are_named(make, changes, expected):
    with pytest.raises(ValueError, match=expected):
        make(**{"input_shape": (16, 16, 16, 1), "classes": 2, "levels": 4, **changes})


def test_an_unknown_normalization_is_refused():
    with pytest.raises(ValueError, match=r"normalization must be 'batch', 'instance' or None\. Received: 'layer'"):
        ks.models.UNet2D((16, 16, 1), 2, levels=2, normalization="layer")


def test_blocks_of_another_number_of_levels_are_refused():
    with pytest.raises(ValueError, match="each of 3 levels"):
        ks.models.ResidualUNet2D((16, 16, 1), 2, levels=3, blocks=(1, 2))


def test_a_network_that_was_made_without_a_mesh_is_saved_as_a_plain_keras_file(tmp_path):
    model = ks.models.UNet3D((8, 8, 8, 1), classes=3, filters=2, levels=2)
    model.save(tmp_path / "unet.keras")
    loaded = keras.saving.load_model(tmp_path / "unet.keras")
    assert not isinstance(loaded, ks.Model)
    for a, b in zip(loaded.get_weights(), model.get_weights(), strict=True):
        assert (a == b).all()
