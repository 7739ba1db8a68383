"""Steps that run as a job of several processes: on this machine, or in pods as Kubeflow's TrainJob or TFJob."""
