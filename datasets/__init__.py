"""TFDS data sets. They run from the checkout and are not part of the installed package."""
