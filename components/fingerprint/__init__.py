"""The state of a folder outside the pipeline, for KFP's cache."""
