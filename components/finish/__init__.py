"""The last step of a pipeline on a cluster, which runs whatever happened before."""
