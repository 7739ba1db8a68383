"""Layers that augment images in training: with the same seed they draw the same numbers as in Keras."""

from keras import layers as L

import keras_spatial as ks

RANDOM_2D = {
    "RandomFlip": {
        "random-flip": lambda: L.RandomFlip(seed=3),
        "random-flip-vertical": lambda: L.RandomFlip("vertical", seed=5),
    },
    "RandomRotation": {
        "random-rotation": lambda: L.RandomRotation(0.2, seed=3),
        "random-rotation-wrap": lambda: L.RandomRotation(0.3, fill_mode="wrap", interpolation="nearest", seed=3),
    },
    "RandomTranslation": {
        "random-translation": lambda: L.RandomTranslation(0.2, 0.3, seed=3),
        "random-translation-fill": lambda: L.RandomTranslation(0.4, 0.4, fill_mode="constant", fill_value=0.7, seed=3),
    },
    "RandomZoom": {
        "random-zoom": lambda: L.RandomZoom(0.3, seed=3),
        "random-zoom-nearest": lambda: L.RandomZoom((0.3, 0.9), (-0.6, -0.2), fill_mode="nearest", seed=3),
    },
    "RandomContrast": {
        "random-contrast": lambda: L.RandomContrast(0.5, value_range=(-9, 9), seed=3),
    },
    "RandomBrightness": {
        "random-brightness": lambda: L.RandomBrightness(0.5, value_range=(-9, 9), seed=3),
    },
    "RandomCrop": {
        "random-crop": lambda: L.RandomCrop(11, 7, seed=3),
        "random-crop-wide": lambda: L.RandomCrop(30, 7, seed=3),
    },
    "RandomSharpness": {
        "random-sharpness": lambda: L.RandomSharpness((0.2, 0.9), value_range=(-9, 9), seed=3),
    },
    "RandomInvert": {
        "random-invert": lambda: L.RandomInvert(0.5, value_range=(-9, 9), seed=3),
    },
    "Solarization": {
        "solarization": lambda: L.Solarization(0.2, 0.4, value_range=(-4, 4), seed=3),
    },
    "AutoContrast": {
        "auto-contrast": lambda: L.AutoContrast(value_range=(-9, 9)),
    },
    "RandomShear": {
        "random-shear": lambda: L.RandomShear(0.4, 0.6, seed=3),
    },
    "RandomPerspective": {
        "random-perspective": lambda: L.RandomPerspective(1.0, 0.8, fill_value=-0.5, seed=4),
    },
    "RandomHue": {
        "random-hue": lambda: L.RandomHue(0.3, value_range=(-4, 4), seed=3),
    },
    "RandomSaturation": {
        "random-saturation": lambda: L.RandomSaturation(0.3, value_range=(-4, 4), seed=3),
    },
    "RandomGrayscale": {
        "random-grayscale": lambda: L.RandomGrayscale(0.5, seed=3),
    },
    "RandomColorDegeneration": {
        "random-color-degeneration": lambda: L.RandomColorDegeneration(0.5, value_range=(-9, 9), seed=3),
    },
}

RANDOM_3D = {
    "RandomCrop3D": {
        "random-crop": lambda: ks.layers.RandomCrop3D((5, 7, 4), seed=3),
    },
    "RandomFlip3D": {
        "random-flip": lambda: ks.layers.RandomFlip3D(seed=1),
        "random-flip-x": lambda: ks.layers.RandomFlip3D("x", seed=3),
    },
    "RandomContrast3D": {
        "random-contrast": lambda: ks.layers.RandomContrast3D(0.5, value_range=(-9, 9), seed=3),
    },
    "RandomBrightness3D": {
        "random-brightness": lambda: ks.layers.RandomBrightness3D((-0.1, 0.3), value_range=(-9, 9), seed=3),
    },
    "RandomRotation3D": {
        "random-rotation": lambda: ks.layers.RandomRotation3D(0.2, "xyz", spacing=(1.0, 0.8, 2.5), seed=3),
        "random-rotation-constant": lambda: ks.layers.RandomRotation3D(
            0.1, fill_mode="constant", fill_value=-0.3, seed=3
        ),
    },
    "RandomTranslation3D": {
        "random-translation": lambda: ks.layers.RandomTranslation3D(0.4, "xz", "nearest", seed=3),
    },
    "RandomZoom3D": {
        "random-zoom": lambda: ks.layers.RandomZoom3D((0.1, 0.4), "wrap", "nearest", seed=3),
    },
}
