"""Combine the folds of a cross-validation."""
