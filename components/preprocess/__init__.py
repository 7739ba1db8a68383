"""Build the TFDS data set with Beam."""
