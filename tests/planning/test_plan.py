"""The planner: traffic, arithmetic and memory of a step, compared with formulas, without running the step."""

import keras
import numpy as np
import pytest

import keras_spatial as ks
from keras_spatial.planning import NothingFits, smallest_mesh
from keras_spatial_command import main

FLOAT = 4


def mesh(shape: str, layout: str = "x:rows, y:columns") -> ks.SpatialParallel:
    """A distribution over devices that do not exist."""
    sizes = [int(part.split(":")[1]) for part in shape.split(",")]
    return ks.SpatialParallel(ks.device_mesh(shape, devices=["cpu:0"] * int(np.prod(sizes))), layout)


def convolution(size: int, filters: int = 3, kernel: int = 3) -> keras.Model:
    inputs = keras.Input((size, size, 2))
    return keras.Model(inputs, keras.layers.Conv2D(filters, kernel, padding="same", name="c")(inputs))


@pytest.mark.parametrize(
    ("shape", "strips"),
    [
        # The halos of the second axis contain the corners, so they are longer by the halo widths of the first axis.
        ("rows:3, columns:3", 2 * 10 + 2 * (10 + 2)),
        ("rows:2, columns:2", 1 * 15 + 1 * (15 + 2)),
        ("rows:1, columns:5", 2 * 30),
    ],
)
def test_halo_bytes_of_a_prediction_are_the_halos(shape, strips):
    planned = ks.plan(convolution(30), mesh(shape), training=False)
    assert planned.halo == strips * 2 * FLOAT


def test_halo_bytes_grow_with_the_batch_and_shrink_with_the_dtype():
    distribution = mesh("rows:3, columns:3")
    one = ks.plan(convolution(30), distribution, training=False).halo
    assert ks.plan(convolution(30), distribution, batch_size=4, training=False).halo == 4 * one
    assert ks.plan(convolution(30), distribution, dtype="mixed_float16", training=False).halo == one / 2


def test_training_sends_halos_forward_and_their_gradients_back():
    inputs = keras.Input((30, 30, 2))
    x = keras.layers.Conv2D(3, 3, padding="same")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(x))
    for optimizer in ("sgd", "adam"):
        model.compile(optimizer, "mse")
        planned = ks.plan(model, mesh("rows:3", "x:rows"))
        # The image with 2 channels has no gradient; the tensor between the convolutions has 3 channels, and halos go
        # both ways.
        assert planned.halo == 2 * 30 * (2 + 3 + 3) * FLOAT


def test_training_sums_the_gradients_of_all_weights_and_the_loss():
    model = convolution(30)
    model.compile("sgd", "mse")
    planned = ks.plan(model, mesh("rows:3, columns:3"))
    weights = (3 * 3 * 2 * 3 + 3) * FLOAT
    assert weights <= planned.allreduce <= weights + 64
    assert planned.weights == weights


def test_arithmetic_is_that_of_the_convolutions():
    """The forward pass and the gradient of the kernel count, but no gradient of the image. Halos add a little."""
    model = convolution(64, filters=16, kernel=5)
    model.compile("sgd", "mse")
    forward = 2 * 64 * 64 * 25 * 2 * 16
    found = ks.plan(model, mesh("rows:1", "x:rows")).flops
    assert found == pytest.approx(2 * forward, rel=0.1)
    shared = ks.plan(model, mesh("rows:4, columns:4"))
    assert shared.flops * shared.devices == pytest.approx(found, rel=0.1)


def test_memory_falls_as_the_mesh_grows():
    model = ks.models.UNet3D((128, 128, 128, 1), classes=3, filters=4, levels=2)
    needs = [ks.plan(model, mesh(f"rows:{n}", "x:rows")).activations for n in (1, 2, 4)]
    assert needs[0] / needs[1] == pytest.approx(2, rel=0.1)
    assert needs[1] / needs[2] == pytest.approx(2, rel=0.15)


def test_an_image_that_no_machine_could_hold_is_planned():
    """A float32 channel of this image would take 256 TB."""
    inputs = keras.Input((40_000, 40_000, 40_000, 1))
    model = keras.Model(inputs, keras.layers.Conv3D(8, 3, padding="same")(inputs))
    planned = ks.plan(model, mesh("rows:16, columns:16"), training=False)
    assert planned.activations > 10**12
    assert not planned.fits(10**12)
    assert "Does not fit" in planned.explain(10**12)


def test_a_prediction_holds_less_than_a_training_step():
    model = ks.models.UNet3D((64, 64, 64, 1), classes=3, filters=4, levels=2)
    distribution = mesh("rows:2, columns:2")
    training, prediction = (ks.plan(model, distribution, training=t) for t in (True, False))
    assert prediction.activations < 0.6 * training.activations
    assert (prediction.optimizer, prediction.allreduce) == (0, 0)
    assert training.optimizer == pytest.approx(2 * FLOAT * model.count_params(), rel=0.05)


def test_the_model_itself_is_left_alone():
    model = convolution(16)
    model.compile("adam", "mse")
    before = [w.copy() for w in model.get_weights()]
    ks.plan(model, mesh("rows:2", "x:rows"))
    assert not model.optimizer.built
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"batch_size": 0}, "batch_size must be at least 1"), ({"dtype": "float12"}, "float12")],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ks.plan(convolution(16), mesh("rows:2", "x:rows"), **arguments)


def test_a_model_of_open_size_needs_the_size():
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3, padding="same")(inputs))
    with pytest.raises(ValueError, match="input_shape"):
        ks.plan(model, mesh("rows:2", "x:rows"))
    assert ks.plan(model, mesh("rows:2", "x:rows"), input_shape=(64, 64, 1)).activations > 0


def test_the_smallest_mesh_that_fits_is_found():
    model = ks.models.UNet3D((64, 64, 64, 1), classes=3, filters=4, levels=2)
    alone = ks.plan(model, mesh("rows:1", "x:rows")).memory
    found = smallest_mesh(model, int(alone / 3))
    assert found.devices == 4
    assert found.fits(int(alone / 3))


def test_what_fits_nowhere_is_explained():
    model = ks.models.UNet3D((64, 64, 64, 1), classes=3, filters=4, levels=2)
    with pytest.raises(NothingFits, match=r"up to 2 devices(.|\n)*largest tensors"):
        smallest_mesh(model, 10**6, most_devices=2)


def test_command_line(capsys, tmp_path):
    network = ["plan", "--image", "32,32,32,1", "--filters", "4", "--levels", "2"]
    assert main([*network, "--mesh", "rows:2, columns:2"]) == 0
    assert "memory in all" in capsys.readouterr().out
    assert main([*network, "--mesh", "rows:2, columns:2", "--memory", "1MB"]) == 1
    assert "Does not fit" in capsys.readouterr().out
    assert main(network) == 2
    assert "--memory" in capsys.readouterr().err
    convolution(16).save(tmp_path / "model.keras")
    assert main(["plan", "--model", str(tmp_path / "model.keras"), "--memory", "16GiB"]) == 0
    assert main(["plan", "--model", str(tmp_path / "none.keras"), "--memory", "16GiB"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_gradients_of_weights_are_held_once():
    inputs = keras.Input((8, 8, 64))
    x = inputs
    for _ in range(12):
        x = keras.layers.Conv2D(64, 3, padding="same", use_bias=False)(x)
    model = keras.Model(inputs, x)
    model.compile("adam", "mse")
    planned = ks.plan(model, mesh("rows:2, columns:2"))
    gradients = sum(v.numpy().nbytes for v in model.trainable_variables)
    # Adam squares all of them before it updates the first variable.
    assert gradients <= planned.activations <= 2.1 * gradients
