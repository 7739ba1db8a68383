"""The few calls of the Kubernetes API that a step makes, in the namespace of its own pod."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

from components import console

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# The timeouts, in seconds, of the connection and of reading an answer.
_TIMEOUT = (10, 60)
# KFP sets both in every step (kubeflow/pipelines 2.17.0, backend/src/v2/compiler/argocompiler/common.go).
_POD_NAME, _POD_UID = "KFP_POD_NAME", "KFP_POD_UID"


class ClusterApiError(RuntimeError):
    """The Kubernetes API refused a request or cannot be reached.

    Attributes:
        status: the status code of HTTP; 0 if nothing answered.
    """

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Pod:
    """The state of a pod.

    Attributes:
        name: the name of the pod.
        phase: Pending, Running, Succeeded, Failed or Unknown.
        reason: why the pod waits or has failed, such as "OOMKilled: exit code 137" or "ImagePullBackOff: ..."; empty if
            neither is the case.
    """

    name: str
    phase: str
    reason: str


@dataclass(frozen=True)
class Resource:
    """A kind of custom object, and its place in the API."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}"


class ClusterApi:
    """Calls of the Kubernetes API in one namespace.

    Args:
        connection: the connection of the `kubernetes` package.
        namespace: the namespace of everything that is read and made.
    """

    def __init__(self, connection: client.ApiClient, namespace: str):
        self.namespace = namespace
        self._core, self._custom = client.CoreV1Api(connection), client.CustomObjectsApi(connection)

    @classmethod
    def in_cluster(cls) -> "ClusterApi":
        """The API of this pod's cluster, with the rights of the pod's service account.

        Raises:
            ClusterApiError: if this process does not run in a pod with a service account.
        """
        try:
            config.load_incluster_config()
            namespace = _NAMESPACE.read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError) as error:
            raise ClusterApiError(f"expected to run in a pod with a service account. Received: {error}") from error
        return cls(client.ApiClient(), namespace)

    def create(self, resource: Resource, body: Mapping[str, Any]) -> None:
        """Create an object."""
        self._call(
            f"create {resource.kind} {body['metadata']['name']}",
            self._custom.create_namespaced_custom_object,
            resource.group,
            resource.version,
            self.namespace,
            resource.plural,
            dict(body),
            _request_timeout=_TIMEOUT,
        )

    def get(self, resource: Resource, name: str) -> dict[str, Any]:
        """Read an object."""
        return self._call(
            f"read {resource.kind} {name}",
            self._custom.get_namespaced_custom_object,
            resource.group,
            resource.version,
            self.namespace,
            resource.plural,
            name,
            _request_timeout=_TIMEOUT,
        )

    def delete(self, resource: Resource, name: str) -> None:
        """Delete an object and what it owns, if it exists."""
        try:
            self._call(
                f"delete {resource.kind} {name}",
                self._custom.delete_namespaced_custom_object,
                resource.group,
                resource.version,
                self.namespace,
                resource.plural,
                name,
                propagation_policy="Foreground",
                _request_timeout=_TIMEOUT,
            )
        except ClusterApiError as error:
            if error.status != 404:
                raise

    def pods(self, selector: str) -> list[Pod]:
        """The pods with these labels, in the order of their names."""
        found = self._call(
            f"list pods {selector}",
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=selector,
            _request_timeout=_TIMEOUT,
        )
        return sorted((_pod(item) for item in found.items), key=lambda pod: pod.name)

    def owner(self, step: str, environment: Mapping[str, str] = os.environ) -> dict[str, str] | None:
        """The ownerReference for the objects that this step creates; None outside of a KFP step.

        The owner is the controller of the step's pod, Argo's Workflow, so that Kubernetes deletes the objects with the
        run. If the pod itself were the owner, the objects would be deleted with it when its node is lost, although the
        next attempt of the step could wait for them. So the pod is the owner only if this step may not read it.

        Args:
            step: the name of the step, with which each printed line begins.
            environment: the environment, in which KFP has put the name and the UID of the pod.
        """
        if _POD_NAME not in environment or _POD_UID not in environment:
            return None
        name, uid = environment[_POD_NAME], environment[_POD_UID]
        try:
            found = self._call(
                f"read pod {name}", self._core.read_namespaced_pod, name, self.namespace, _request_timeout=_TIMEOUT
            )
        except ClusterApiError as error:
            if error.status not in (403, 404):
                raise
            console.say(f"{step}: {error}; the job belongs to this pod, and is deleted with it")
        else:
            for owner in found.metadata.owner_references or []:
                if owner.controller:
                    return {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
        return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}

    def events(self, prefix: str) -> list[str]:
        """The warnings about objects whose names begin with `prefix`, such as that a quota does not allow more pods."""
        found = self._call(
            "list events",
            self._core.list_namespaced_event,
            self.namespace,
            field_selector="type=Warning",
            _request_timeout=_TIMEOUT,
        )
        ours = [event for event in found.items if (event.involved_object.name or "").startswith(prefix)]
        return list(dict.fromkeys(f"{event.reason}: {event.message}" for event in ours))

    def log(self, pod: str, container: str, lines: int | None = None) -> str:
        """The text that a container has written, or only its last `lines` lines."""
        return self._read_log(pod, container, **({} if lines is None else {"tail_lines": lines}))

    def recent(self, pod: str, container: str, seconds: int) -> list[str]:
        """The lines of the last seconds. Each begins with its time, which distinguishes it from all other lines."""
        return self._read_log(pod, container, since_seconds=seconds, timestamps=True).splitlines()

    def _read_log(self, pod: str, container: str, **options: Any) -> str:
        # The client's own decoding fails at bytes that are not UTF-8 and changes text that is JSON, so bytes are asked
        # for.
        response = self._call(
            f"read the log of pod {pod}",
            self._core.read_namespaced_pod_log,
            pod,
            self.namespace,
            container=container,
            _preload_content=False,
            _request_timeout=_TIMEOUT,
            **options,
        )
        return response.data.decode("utf-8", errors="replace")

    def _call(self, what: str, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except client.ApiException as error:
            body = (error.body or "") if isinstance(error.body, str) else (error.body or b"").decode(errors="replace")
            raise ClusterApiError(
                f"cannot {what} in namespace {self.namespace}: {error.status} {error.reason} {body.strip()[:500]}",
                int(error.status or 0),
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise ClusterApiError(
                f"cannot {what} in namespace {self.namespace}: the Kubernetes API cannot be reached ({error})"
            ) from error


def _pod(item: Any) -> Pod:
    return Pod(item.metadata.name, item.status.phase or "Unknown", _reason(item.status))


def _reason(status: Any) -> str:
    for container in status.container_statuses or []:
        state = container.state
        if state and state.terminated and state.terminated.exit_code:
            detail = f": {state.terminated.message}" if state.terminated.message else ""
            return f"{state.terminated.reason or 'Error'}: exit code {state.terminated.exit_code}{detail}"
        # A pod in the states "ContainerCreating" and "PodInitializing" is starting.
        waiting = state.waiting if state else None
        if waiting and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting.reason}: {waiting.message or ''}".strip(": ")
    for condition in status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"{condition.reason}: {condition.message or ''}".strip(": ")
    return ": ".join(part for part in (status.reason, status.message) if part)
