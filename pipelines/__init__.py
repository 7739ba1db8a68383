"""Kubeflow pipelines: the same one runs on a laptop with KFP's local runner and compiles for a cluster."""
