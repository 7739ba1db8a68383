"""The folds of a cross-validation, put together."""
