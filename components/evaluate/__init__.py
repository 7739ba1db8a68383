"""Score a model with the LiTS metrics on held-out cases."""
