"""Segment in a job of several pods: Kubeflow Trainer's TrainJob, or the older TFJob."""
