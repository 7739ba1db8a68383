"""The addresses of a TrainJob's processes, from what Kubernetes tells each pod. Pure functions of the environment.

Kubeflow Trainer has no runtime for TensorFlow and sets no `TF_CONFIG`; its JobSet gives every pod a host name
(https://jobset.sigs.k8s.io/docs/concepts/: `<jobset>-<replicated job>-<job index>-<pod index>.<subdomain>`, where the
subdomain is the JobSet's name), and the Indexed job beneath it sets `JOB_COMPLETION_INDEX`.
"""

import json
from collections.abc import Mapping

JOB, NODES, INDEX = "KERAS_SPATIAL_JOB", "KERAS_SPATIAL_NODES", "JOB_COMPLETION_INDEX"
PEER_TIMEOUT = "KERAS_SPATIAL_PEER_TIMEOUT"
"""Environment variable: seconds that a process waits for the others."""
_PEER_SECONDS = 300.0
PORT = 2222
"""Of TensorFlow's gRPC server; the same as the TFJob operator's."""
REPLICATED_JOB = "node"
"""Name of the replicated job and of its container that Kubeflow Trainer's own runtimes use."""


class ClusterError(ValueError):
    """The environment of a pod does not say which process of which job it is."""


def host(job: str, index: int) -> str:
    """Host name of a pod of a TrainJob."""
    return f"{job}-{REPLICATED_JOB}-0-{index}.{job}"


def tf_config(job: str, nodes: int, index: int) -> str:
    """`TF_CONFIG` of one process: all are workers, the first of which writes files.

    Args:
        job: name of the TrainJob, which is also that of its JobSet.
        nodes: the number of pods.
        index: the number of this pod, from 0.
    """
    workers = [f"{host(job, i)}:{PORT}" for i in range(nodes)]
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def with_tf_config(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of a process; nothing where `TF_CONFIG` is set, or no TrainJob named.

    Raises:
        ClusterError: if the number of pods or the pod's index is missing or wrong.
    """
    if environment.get("TF_CONFIG") or JOB not in environment:
        return {}
    nodes, index = (_number(environment, name) for name in (NODES, INDEX))
    if not 0 <= index < nodes:
        raise ClusterError(f"{INDEX}: expected 0 to {nodes - 1}, for {NODES} is {nodes}. Received: {index}")
    return {"TF_CONFIG": tf_config(environment[JOB], nodes, index)}


def rank_of(environment: Mapping[str, str]) -> int:
    """Number of a process among those of its machine, which `keras_spatial.launch` gives as the task of `TF_CONFIG`."""
    return int(json.loads(environment["TF_CONFIG"])["task"]["index"])


def peer_timeout(environment: Mapping[str, str]) -> float:
    """Seconds that the processes of a job wait for each other: the environment's, or `ks.initialize`'s own.

    Raises:
        ClusterError: if it is no number of seconds.
    """
    return float(_number(environment, PEER_TIMEOUT)) if PEER_TIMEOUT in environment else _PEER_SECONDS


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdigit():
        raise ClusterError(
            f"{name}: expected a whole number in the environment of a pod of an Indexed job. Received: {text!r}. Set "
            "TF_CONFIG yourself where Kubernetes does not."
        )
    return int(text)
