"""One report over the runs of a study."""
