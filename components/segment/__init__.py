"""Segment CT volumes with a trained model."""
