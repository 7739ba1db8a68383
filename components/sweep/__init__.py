"""Trainings that differ in their learning rate, compared on the validation cases."""
