"""Kubeflow components. Each body imports and calls one plain function, which is tested without Kubeflow."""
