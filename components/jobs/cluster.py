"""Compute the addresses of a TrainJob's processes from the environment variables that Kubernetes sets in each pod.

Kubeflow Trainer has no runtime for TensorFlow and does not set `TF_CONFIG`. Its JobSet gives every pod a host name
(https://jobset.sigs.k8s.io/docs/concepts/: `<jobset>-<replicated job>-<job index>-<pod index>.<subdomain>`, where the
subdomain is the JobSet's name), and the Indexed job below the JobSet sets `JOB_COMPLETION_INDEX`.
"""

import json
from collections.abc import Mapping

JOB, NODES, INDEX = "KERAS_SPATIAL_JOB", "KERAS_SPATIAL_NODES", "JOB_COMPLETION_INDEX"
PEER_TIMEOUT = "KERAS_SPATIAL_PEER_TIMEOUT"
"""The environment variable with the number of seconds that a process waits for the others."""
_PEER_SECONDS = 300.0
PORT = 2222
"""The port of TensorFlow's gRPC server, which the TFJob operator uses, too."""
REPLICATED_JOB = "node"
"""The name of the replicated job and of its container, as in Kubeflow Trainer's own runtimes."""


class ClusterError(ValueError):
    """The environment of a pod does not say which process of which job it is."""


def host(job: str, index: int) -> str:
    """The host name of a pod of a TrainJob."""
    return f"{job}-{REPLICATED_JOB}-0-{index}.{job}"


def tf_config(job: str, nodes: int, index: int) -> str:
    """The value of `TF_CONFIG` for one process. All processes are workers, and the first one writes the files.

    Args:
        job: the name of the TrainJob, which is also that of its JobSet.
        nodes: the number of pods.
        index: the number of this pod, from 0.
    """
    workers = [f"{host(job, i)}:{PORT}" for i in range(nodes)]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def with_tf_config(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables to add to the environment of a process; none if `TF_CONFIG` is set, or the pod has no TrainJob.

    Raises:
        ClusterError: if the number of pods or the pod's index is missing or wrong.
    """
    if environment.get("TF_CONFIG") or JOB not in environment:
        return {}
    nodes, index = (_number(environment, name) for name in (NODES, INDEX))
    if not 0 <= index < nodes:
        raise ClusterError(f"{INDEX}: expected 0 to {nodes - 1}, because {NODES} is {nodes}. Received: {index}")
    return {"TF_CONFIG": tf_config(environment[JOB], nodes, index)}


def rank_of(environment: Mapping[str, str]) -> int:
    """The number of a process among those of its machine, which `keras_spatial.launch` sets in `TF_CONFIG`."""
    return int(json.loads(environment["TF_CONFIG"])["task"]["index"])


def peer_timeout(environment: Mapping[str, str]) -> float:
    """For how many seconds the processes of a job wait for each other; by default as long as in `ks.initialize`.

    Raises:
        ClusterError: if the variable is not a whole number.
    """
    return float(_number(environment, PEER_TIMEOUT)) if PEER_TIMEOUT in environment else _PEER_SECONDS


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        raise ClusterError(
            f"{name}: expected a whole number in the environment of a pod of an Indexed job. Received: {text!r}. Set "
            "TF_CONFIG yourself if Kubernetes does not."
        )
    return int(text)
