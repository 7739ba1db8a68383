"""Kubeflow pipelines: the same one runs on a laptop with KFP's local runner and compiles for a cluster."""

from components import pure

pure.load("interruption").end_with_a_sentence("pipelines")
