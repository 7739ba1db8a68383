"""Check that the software on a cluster is new enough for a package, as far as its APIs reveal it.

KFP's API server reports its own version. Trainer, JobSet and Kueue do not report theirs, but Kubernetes publishes the
schemas of their kinds, and silently drops fields that are not in them. So every object of a training job is compared
with these schemas, field by field.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kfp.pipeline_spec import pipeline_spec_pb2

from components.jobs.manifests import NETWORK_POLICY, Part, objects
from components.jobs.settings import JobSettings

BACKEND = "2.16.0"
"""The first version of KFP whose driver applies a step's user and group (backend/src/v2/driver/k8s.go)."""
KUBERNETES = "1.26"
TRAINER = "2.0.0 (2.1.0 for gang: volcano), with JobSet 0.8.2"
TRAINING_OPERATOR = "1.9.2"
KUEUE = "0.14.0 (0.17.0 from Trainer 2.2 on)"
"""The first version of Kueue with `pkg/controller/jobs/trainjob`, and the first one whose `go.mod` has Trainer 2.2."""

_JOBS = ("comp-train-job", "comp-evaluate-job", "comp-segment-job")

Read = Callable[[str], Any | None]
"""A function from a path of the Kubernetes API to the JSON there; None if the path does not exist."""


class VersionError(RuntimeError):
    """Something on the cluster is missing, or older than what a package needs."""


def check_backend(health: Mapping[str, Any] | None) -> str:
    """Check the version of KFP's API server.

    Args:
        health: the answer of `/apis/v2beta1/healthz`; None if there was none.

    Returns:
        A line to show: the version, or that it is not known.

    Raises:
        VersionError: if the version is older than `BACKEND`.
    """
    tag = str((health or {}).get("tag_name", ""))
    if not _release(tag):
        return f"Note: KFP's backend does not report its version (tag_name {tag!r}). Expected {BACKEND} or later."
    if _release(tag) < _release(BACKEND):
        raise VersionError(
            f"Kubeflow Pipelines: expected a backend of version {BACKEND} or later, because older ones ignore the "
            f"steps' user and group. Received: {tag}. Update it, or give --any-version if this tag is not KFP's own."
        )
    return f"KFP's backend: {tag}"


def check_cluster(read: Read, job: JobSettings | None) -> list[str]:
    """Check the version of Kubernetes, and that it has what a job of several pods needs.

    Args:
        read: a function that reads the Kubernetes API, such as `kubernetes` returns.
        job: the job that a package launches; None if it launches none.

    Returns:
        Lines to show about what was found.

    Raises:
        VersionError: if something is missing or too old; the message names it and what was expected.
    """
    said = read("/version") or {}
    found = f"{said.get('major')}.{str(said.get('minor')).rstrip('+')}"
    if _release(found) < _release(KUBERNETES):
        raise VersionError(f"Kubernetes: expected version {KUBERNETES} or later. Received: {found}.")
    notes = [f"Kubernetes: {found}"]
    if job is None:
        return notes
    for group, remedy in _groups(job).items():
        if read(f"/apis/{group}") is None:
            raise VersionError(f"{group}: the cluster has no such API. Expected {remedy}; see pipelines/README.md.")
        notes.append(f"{group}: found")
    for part in objects("keras-spatial-check", job, ["true"]):
        _check_fields(read, part, job)
    return [*notes, f"{job.kind}: the cluster knows every field"]


def launched_job(spec: pipeline_spec_pb2.PipelineSpec) -> JobSettings | None:
    """The job of several pods that a package launches; None if it launches none. All jobs of a package are the same."""
    for component in spec.components.values():
        for task in component.dag.tasks.values():
            if task.component_ref.name.startswith(_JOBS):
                return JobSettings.from_json(task.inputs.parameters["job"].runtime_value.constant.string_value)
    return None


def _release(tag: str) -> tuple[int, int] | tuple[()]:
    """The major and the minor number of a tag such as 2.16.0 or v1.33; empty for other tags, such as nightly."""
    found = re.match(r"v?(\d+)\.(\d+)", tag)
    return (int(found[1]), int(found[2])) if found else ()


def _groups(job: JobSettings) -> dict[str, str]:
    """The API groups that a job needs, and what installs each of them."""
    if job.kind == "TFJob":
        groups = {"kubeflow.org": f"the training operator {TRAINING_OPERATOR}"}
    else:
        trainer = f"Kubeflow Trainer {TRAINER}"
        groups = {"trainer.kubeflow.org": trainer, "jobset.x-k8s.io": trainer}
    gangs = {
        "coscheduling": ("scheduling.x-k8s.io", "the scheduler plugin coscheduling, for gang"),
        "volcano": ("scheduling.volcano.sh", "Volcano, for gang"),
    }
    if job.gang:
        groups |= dict([gangs[job.gang]])
    if job.queue:
        groups["kueue.x-k8s.io"] = f"Kueue {KUEUE}, for queue"
    return groups


def _check_fields(read: Read, part: Part, job: JobSettings) -> None:
    resource, body = part
    if resource == NETWORK_POLICY:
        # It is part of Kubernetes itself, and older than every supported version.
        return
    document = read(f"/openapi/v3/apis/{resource.group}/{resource.version}")
    schema = _schema(document or {}, resource.kind)
    least = TRAINING_OPERATOR if job.kind == "TFJob" else TRAINER
    if schema is None:
        raise VersionError(
            f"{resource.kind}: the cluster does not know {resource.api_version}. Expected version {least}."
        )
    unknown = sorted(set(_unknown(body, schema)))
    if unknown:
        raise VersionError(
            f"{resource.kind}: expected version {least}. Received: a version that does not know the fields "
            f"{', '.join(unknown)}, and would ignore them."
        )


def _schema(document: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    schemas = document.get("components", {}).get("schemas", {})
    for schema in schemas.values():
        if any(known["kind"] == kind for known in schema.get("x-kubernetes-group-version-kind", [])):
            return schema
    return None


def _unknown(value: Any, schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The paths of the fields that a schema does not name."""
    if isinstance(value, Mapping):
        names = schema.get("properties")
        # The schema allows any names here, or refers to another schema, as it does for metadata.
        if names is None:
            return
        for name, inner in value.items():
            if name in names:
                yield from _unknown(inner, names[name], f"{path}.{name}" if path else name)
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{path}.{name}" if path else name
    elif isinstance(value, list):
        for inner in value:
            yield from _unknown(inner, schema.get("items", {}), path)


def kubernetes(context: str | None) -> Read:
    """A function that reads the Kubernetes API with the address and credentials of a context of the kubeconfig.

    Raises:
        VersionError: if there is no such context. The function itself raises it if the API refuses a request.
    """
    from kubernetes import client, config

    try:
        api = config.new_client_from_config(config_file=os.environ.get("KUBECONFIG"), context=context)
    except config.ConfigException as error:
        raise VersionError(f"--kube-context: cannot be used ({error}). Received: {context!r}") from error

    def read(path: str) -> Any | None:
        try:
            answer = api.call_api(
                path,
                "GET",
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=30,
            )
            return json.loads(answer.data)
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise VersionError(f"{path}: {error.status} {error.reason}") from error

    return read
