"""A local HTTP server that answers the calls of the Kubernetes API which a launching step makes.

It checks every created object against the published schema of its kind, and plays the operator: each look at the job
takes the next of the frames that a test has written. It also simulates the delays of a real cluster: finalizers that
keep a deleted object and its name, a webhook with a stale cache, lost answers, and a server that is slow or restarts.
"""

import copy
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import json_server
import jsonschema
from kubernetes import client

from components.jobs.cluster_api import ClusterApi

NAMESPACE = "imaging"
SCHEMAS = sorted((Path(__file__).parent / "components" / "crds").glob("*.json"))
_OBJECT = re.compile(r"^/apis/([^/]+)/([^/]+)/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?$")
_LOG = re.compile(r"^/api/v1/namespaces/([^/]+)/pods/([^/]+)/log$")
_PODS = re.compile(r"^/api/v1/namespaces/([^/]+)/pods$")
_POD = re.compile(r"^/api/v1/namespaces/([^/]+)/pods/([^/]+)$")
_EVENTS = re.compile(r"^/api/v1/namespaces/([^/]+)/events$")
# The words of Kubeflow Trainer's webhook (kubeflow/trainer v2.3.0, pkg/runtime/core/trainingruntime.go).
WEBHOOK = (
    'admission webhook "validator.trainjob.trainer.kubeflow.org" denied the request: spec.runtimeRef: Invalid value: '
    "TrainingRuntime.trainer.kubeflow.org not found: specified trainingRuntime must be created before the TrainJob is "
    "created"
)


@cache
def schema(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def strict(node: Any) -> Any:
    """A schema that refuses fields that it does not name; Kubernetes would silently drop them."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: strict(value) for key, value in node.items()}
    if node.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    if isinstance(node.get("properties"), dict) and "additionalProperties" not in node:
        result["additionalProperties"] = False
    return result


def check(document: Path, body: dict[str, Any]) -> None:
    """Raise `jsonschema.ValidationError` unless an object is valid, with nothing that the schema does not know."""
    facts = schema(document)
    assert body["apiVersion"] == f"{facts['group']}/{facts['version']}"
    assert body["kind"] == facts["kind"]
    jsonschema.validate(body, strict(facts["schema"]))


def documents(plural: str) -> list[Path]:
    """The schemas of a kind, one per version of the operator."""
    return [path for path in SCHEMAS if schema(path)["plural"] == plural]


@dataclass
class Frame:
    """What the step finds in one look at the job."""

    condition: str = ""
    message: str = ""
    pods: list[dict[str, Any]] = field(default_factory=list)


def pod(name: str, phase: str, **container: Any) -> dict[str, Any]:
    """A pod whose only container is in a state, such as `terminated={"exitCode": 137, "reason": "OOMKilled"}`."""
    status: dict[str, Any] = {"phase": phase}
    if container:
        status["containerStatuses"] = [
            {"name": "node", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": container}
        ]
    return {"metadata": {"name": name}, "status": status}


class Server(ThreadingHTTPServer):
    """The state of the server.

    Attributes:
        objects: by plural and name.
        frames: what the next looks find; the last one stays.
        logs: text by pod.
        requests: method and path of every call.
        refuse: status with which creating is refused, 0 for none.
        broken: how many of the next looks at the job fail with status 500.
        finalizing: looks at a deleted object, by plural, for which it and its name stay.
        stale: how many TrainJobs the webhook refuses, as its cache does not hold the runtime yet.
        busy: how many of the next objects are refused with status 503.
        lost: how many of the next objects are made, while the answer says 500.
        owners: ownerReferences by pod; a pod that is not named must not be read.
        events: warnings, as pairs of an object's name and a message.
        slow: seconds before every answer.
        version: what Kubernetes says of itself.
        installed: the groups of APIs besides those of the kinds in `schemas`.
        schemas: The published schemas of the kinds that the cluster knows.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.frames: list[Frame] = [Frame()]
        self.logs: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.selectors: list[str] = []
        self.refuse = self.broken = self.stale = self.busy = self.lost = 0
        self.finalizing: dict[str, int] = {}
        self.owners: dict[str, list[dict[str, Any]]] = {}
        self.events: list[tuple[str, str]] = []
        self.slow = 0.0
        self.version = {"major": "1", "minor": "33+"}
        self.installed = {"jobset.x-k8s.io"}
        self.schemas = [path for path in SCHEMAS if not path.stem.endswith("v2.3.0")]

    @property
    def frame(self) -> Frame:
        return self.frames[0]

    def arrived(self, name: str, body: dict[str, Any]) -> None:
        """Called before an object is made, for a test that keeps its request waiting."""

    def created(self, name: str, body: dict[str, Any]) -> None:
        """Do nothing after an object is made; a test that starts its pods overrides this."""


class _Handler(json_server.Handler):
    server: Server

    def do_POST(self) -> None:
        group, _, _, plural, _ = self._object()
        body = json.loads(self.body())
        name = body["metadata"]["name"]
        self.server.requests.append(("POST", f"{plural}/{name}"))
        self.server.arrived(name, copy.deepcopy(body))
        if self.server.busy:
            self.server.busy -= 1
            return self._fail(503, "the server is currently unable to handle the request")
        if self.server.refuse:
            return self._fail(self.server.refuse, f"{plural}.{group} is forbidden: User cannot create resource")
        if (plural, name) in self.server.objects:
            return self._fail(409, f"{plural} {name} already exists")
        try:
            for document in documents(plural):
                check(document, body)
        except (jsonschema.ValidationError, AssertionError) as error:
            return self._fail(422, str(error))
        if plural == "trainjobs":
            if self.server.stale:
                self.server.stale -= 1
                return self._fail(403, WEBHOOK)
            if ("trainingruntimes", name) not in self.server.objects:
                return self._fail(403, WEBHOOK)
        self.server.objects[plural, name] = body
        self.server.created(name, copy.deepcopy(body))
        if self.server.lost:
            self.server.lost -= 1
            return self._fail(500, "etcdserver: request timed out")
        return self.answer(body, 201)

    def _about_itself(self, path: str) -> dict[str, Any] | None:
        """What the API's discovery tells every authenticated client."""
        if path == "/version":
            return self.server.version
        kinds = [schema(document) for document in self.server.schemas]
        if path.startswith("/openapi/v3/apis/"):
            found = {k["kind"]: k for k in kinds if path == f"/openapi/v3/apis/{k['group']}/{k['version']}"}
            named = {
                kind: {
                    **facts["schema"],
                    "x-kubernetes-group-version-kind": [{n: facts[n] for n in ("group", "version", "kind")}],
                }
                for kind, facts in found.items()
            }
            return {"components": {"schemas": named}} if named else None
        group = path.removeprefix("/apis/")
        known = group in self.server.installed or any(k["group"] == group for k in kinds)
        return {"kind": "APIGroup", "name": group} if known else None

    def do_GET(self) -> None:
        url = urlparse(self.path)
        time.sleep(self.server.slow)
        self.server.requests.append(("GET", url.path))
        if match := _LOG.match(url.path):
            text = self.server.logs.get(match[2])
            return self._fail(404, "pod not found") if text is None else self._text(text)
        if _PODS.match(url.path):
            self.server.selectors += parse_qs(url.query)["labelSelector"]
            return self.answer({"kind": "PodList", "apiVersion": "v1", "items": self.server.frame.pods})
        if match := _POD.match(url.path):
            owners = self.server.owners.get(match[2])
            if owners is None:
                return self._fail(403, "pods is forbidden: User cannot get resource")
            metadata = {"name": match[2], "ownerReferences": owners}
            return self.answer({"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "status": {}})
        if _EVENTS.match(url.path):
            items = [
                {"metadata": {}, "involvedObject": {"name": name}, "reason": "FailedCreate", "message": message}
                for name, message in self.server.events
            ]
            return self.answer({"kind": "EventList", "apiVersion": "v1", "items": items})
        if not _OBJECT.match(url.path):
            known = self._about_itself(url.path)
            return self._fail(404, "the server could not find it") if known is None else self.answer(known)
        _, _, _, plural, name = self._object()
        if self.server.broken:
            self.server.broken -= 1
            return self._fail(500, "etcd is being replaced")
        if (plural, name) not in self.server.objects:
            return self._fail(404, f"{plural} {name} not found")
        deleted = self.server.objects[plural, name]["metadata"].get("deletionTimestamp")
        if deleted:
            self.server.finalizing[plural] -= 1
            body = self.server.objects[plural, name]
            if self.server.finalizing[plural] <= 0:
                del self.server.objects[plural, name]
            return self.answer(body)
        if plural not in ("trainjobs", "tfjobs"):
            return self.answer(self.server.objects[plural, name])
        if len(self.server.frames) > 1:
            self.server.frames.pop(0)
        frame, body = self.server.frame, copy.deepcopy(self.server.objects[plural, name])
        if frame.condition:
            condition = {"type": frame.condition, "status": "True", "reason": "Reason", "message": frame.message}
            body["status"] = {"conditions": [{"type": "Created", "status": "True"}, condition]}
        return self.answer(body)

    def do_DELETE(self) -> None:
        _, _, _, plural, name = self._object()
        self.server.requests.append(("DELETE", f"{plural}/{name}"))
        if (plural, name) not in self.server.objects:
            return self._fail(404, f"{plural} {name} not found")
        if self.server.finalizing.get(plural, 0) > 0:
            self.server.objects[plural, name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        else:
            del self.server.objects[plural, name]
        return self.answer({"kind": "Status", "status": "Success"})

    def _object(self) -> tuple[str, str, str, str, str]:
        match = _OBJECT.match(urlparse(self.path).path)
        assert match and match[3] == NAMESPACE, self.path
        return match[1], match[2], match[3], match[4], match[5] or ""

    def _fail(self, status: int, message: str) -> None:
        self.answer({"kind": "Status", "status": "Failure", "message": message, "code": status}, status)

    def _text(self, text: str) -> None:
        self.send(text.encode(), "text/plain", 200)


@contextmanager
def running() -> Iterator[Server]:
    with json_server.running(Server()) as server:
        yield server


def api(server: Server) -> ClusterApi:
    """The real client, connected to the server."""
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    configuration.retries = 0
    return ClusterApi(client.ApiClient(configuration), NAMESPACE)


def kubeconfig(server: Server, file: Path) -> Path:
    """Write a kubeconfig whose context "here" is the server."""
    address = f"http://127.0.0.1:{server.server_port}"
    document = {
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    file.write_text(json.dumps(document))
    return file
