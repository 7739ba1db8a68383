"""Compiling pipelines to KFP's YAML, checking such files, and sending them to a cluster."""

import ipaddress
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import kfp
import kfp_server_api
from google.protobuf import json_format
from kfp import compiler
from kfp.dsl.base_component import BaseComponent
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines import versions
from pipelines.bounded_yaml import YamlError, YamlLimits, read_yaml
from pipelines.settings import Settings, SettingsError, check

# KFP's own limit for a package is 32 MiB; ours have 100 kB.
_PACKAGE = YamlLimits(size=1 << 22, values=500_000)
_FINAL = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
# How long a server may answer with errors of its own, or not at all, while a run is followed.
_PATIENCE_SECONDS = 900.0
_T = TypeVar("_T")


class PackageError(ValueError):
    """A pipeline file is no package that this version can submit."""


class SubmissionError(RuntimeError):
    """The KFP server refused a request or cannot be reached, or the run failed."""


class AddressError(ValueError):
    """The address of KFP's API server cannot be used, or not with a token."""


# Where a pod of a cluster finds the token that KFP's client sends by itself, and what names another place.
_POD_TOKEN, _POD_TOKEN_VARIABLE = Path("/var/run/secrets/kubeflow/pipelines/token"), "KF_PIPELINES_SA_TOKEN_PATH"


@dataclass(frozen=True)
class Server:
    """How to reach KFP's API server.

    Attributes:
        host: its address, such as "https://kubeflow.example.org/pipeline", without a user's name and password.
        namespace: the namespace of the run.
        token: bearer token. It is never shown.
        allow_http: whether the token may travel unencrypted, where whoever listens on the way can read it.

    Raises:
        AddressError: if the address is none, holds a password, or would send a token by plain HTTP to another machine
            without `allow_http`.
    """

    host: str
    namespace: str | None = None
    token: str | None = field(default=None, repr=False)
    allow_http: bool = False

    def __post_init__(self) -> None:
        if "@" in self.host:
            raise AddressError(
                "--host (KFP_HOST): expected an address without a user's name and password, which KFP does not take. "
                "Received: one with an @ in it, not shown here. Give a token in KFP_TOKEN instead."
            )
        try:
            # KFP's client takes an address without a scheme for one of HTTPS.
            address = urlsplit(self.host if "://" in self.host else f"https://{self.host}")
            name = address.hostname
        except ValueError:
            name, address = None, urlsplit("")
        if address.scheme not in ("http", "https") or not name:
            raise AddressError(
                f"--host (KFP_HOST): expected an address such as https://kubeflow.example.org. Received: {self.host!r}"
            )
        if address.scheme == "http" and not self.allow_http and not _is_loopback(name) and self._sends_token():
            raise AddressError(
                f"--host (KFP_HOST): expected https:// where a token is sent. Received: {self.host!r}, by which "
                "everybody on the way can read the token. Use https, a forwarded port of this machine, or --allow-http."
            )

    def _sends_token(self) -> bool:
        return bool(self.token) or Path(os.environ.get(_POD_TOKEN_VARIABLE) or _POD_TOKEN).exists()


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def compile_pipeline(pipeline: BaseComponent, path: str | Path) -> Path:
    """Write a pipeline as YAML; the file appears only when it is complete and was read back.

    Raises:
        PackageError: if the path does not end in .yaml, or what was written is not valid.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml") or path.is_dir():
        raise PackageError(f"{path}: expected a name that ends in .yaml, and no folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    try:
        compiler.Compiler().compile(pipeline, str(part.with_suffix(".yaml")))
        check_package(part.with_suffix(".yaml"))
        part.with_suffix(".yaml").replace(path)
    finally:
        part.with_suffix(".yaml").unlink(missing_ok=True)
    return path


def check_package(path: str | Path) -> pipeline_spec_pb2.PipelineSpec:
    """Read a compiled pipeline.

    Returns:
        Its specification.

    Raises:
        PackageError: unreadable, not a pipeline, with unknown fields, or compiled by another minor version of KFP.
    """
    try:
        documents = read_yaml(path, YamlLimits.current(_PACKAGE))
    except YamlError as error:
        raise PackageError(str(error)) from error
    if not documents or not isinstance(documents[0], dict) or "pipelineInfo" not in documents[0]:
        raise PackageError(f"{path}: expected a pipeline compiled by `python -m pipelines compile`.")
    compiled, here = str(documents[0].get("sdkVersion", "")), f"kfp-{kfp.__version__}"
    if _minor(compiled) != _minor(here):
        raise PackageError(
            f"{path}: was compiled by {compiled or 'an unknown version'}, and this is {here}. Compile it again with "
            "`python -m pipelines compile`."
        )
    try:
        return json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
    except json_format.ParseError as error:
        raise PackageError(f"{path}: is not a KFP pipeline: {error}") from error


def _minor(version: str) -> str:
    match = re.match(r"kfp-(\d+\.\d+)\.", version)
    return match[1] if match else ""


@dataclass(frozen=True)
class Request:
    """A run, or a schedule of runs.

    Attributes:
        name: the name of the run or schedule.
        arguments: values of the pipeline's parameters; the others keep their defaults.
        experiment: that it belongs to; made where there is none.
        service_account: the service account of the steps' pods; None for KFP's default.
        pipeline_root: where KFP keeps artifacts; None for its default.
        pipeline: name under which the package is uploaded, as a new version if there is one; None for no upload.
        cron: schedule, with seconds first, as KFP writes it; None for one run now.
        no_cache: whether every step is to run.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    experiment: str = "keras-spatial"
    service_account: str | None = None
    pipeline_root: str | None = None
    pipeline: str | None = None
    cron: str | None = None
    no_cache: bool = False


def read_arguments(spec: pipeline_spec_pb2.PipelineSpec, assignments: Iterable[str]) -> dict[str, Any]:
    """Values of a pipeline's parameters of `name=value` texts: text as it is, everything else as JSON.

    Raises:
        PackageError: no such parameter, not a value of its type, or no setting that the steps would take.
    """
    known = spec.root.input_definitions.parameters
    kinds = pipeline_spec_pb2.ParameterType.ParameterTypeEnum
    expected = {"NUMBER_INTEGER": int, "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool, "LIST": list, "STRUCT": dict}
    values: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise PackageError(
                f"--argument: expected NAME=VALUE with one of {', '.join(sorted(known))}. Received: {text!r}"
            )
        kind = kinds.Name(known[name].parameter_type)
        if kind == "STRING":
            values[name] = value
            continue
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = None
        right = isinstance(values[name], expected[kind])
        if not right or (kind.startswith("NUMBER") and isinstance(values[name], bool)):
            raise PackageError(f"--argument: {name}: expected {kind} as JSON. Received: {value!r}")
    _check_settings(known, values)
    return values


def _check_settings(parameters: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check the settings that a run will have, as those of a pipeline are when it is compiled."""
    defaults = {n: json_format.MessageToDict(p.default_value) for n, p in parameters.items()}
    values = {name: value for name, value in {**defaults, **given}.items() if name in Settings.model_fields}
    try:
        check(values).check_read(values)
    except SettingsError as error:
        raise PackageError(f"--argument: {error}") from error


def submit(
    path: str | Path,
    server: Server,
    request: Request,
    *,
    wait: bool = False,
    any_version: bool = False,
    kube_context: str | None = None,
    poll: float = 10.0,
) -> tuple[str, str]:
    """Start a run of a compiled pipeline, or a schedule of runs.

    Args:
        path: the path of the YAML file.
        server: to send it to.
        request: what to run.
        wait: whether to follow the run to its end and print its state.
        any_version: whether to submit to a backend that is older than the package needs.
        kube_context: the context of the kubeconfig in which Kubernetes, and what a training job needs of it, are
            checked; None for no such check.
        poll: seconds between two looks at its state.

    Returns:
        "run" or "schedule", and its identity.

    Raises:
        PackageError: see `check_package`; or a schedule that is to be waited for.
        VersionError: if something on the cluster is missing or too old, see `pipelines.versions`.
        SubmissionError: if the server cannot be reached or refuses, or the awaited run does not succeed.
    """
    spec = check_package(path)
    if wait and request.cron:
        raise PackageError(f"--wait: a schedule never ends. Received: --cron {request.cron!r}")
    try:
        client = kfp.Client(host=server.host, namespace=server.namespace or "kubeflow", existing_token=server.token)
        if not any_version:
            print(versions.check_backend(_health(client)), flush=True)
        if kube_context is not None:
            for note in versions.check_cluster(versions.kubernetes(kube_context), versions.launched_job(spec)):
                print(note, flush=True)
        source = _source(client, str(path), server, request)
        common = {
            "params": dict(request.arguments),
            "pipeline_root": request.pipeline_root,
            "enable_caching": False if request.no_cache else None,
            "service_account": request.service_account,
        }
        experiment = client.create_experiment(request.experiment, namespace=server.namespace).experiment_id
        if request.cron:
            schedule = client.create_recurring_run(
                experiment,
                request.name,
                cron_expression=request.cron,
                # One at a time: the next begins when the last has ended, and missed ones are not made up for.
                max_concurrency=1,
                no_catchup=True,
                **source,
                **common,
            )
            return "schedule", schedule.recurring_run_id
        run = client.run_pipeline(experiment, request.name, **source, **common)
        print(f"Run {run.run_id}: {server.host}/#/runs/details/{run.run_id}", flush=True)
        if wait:
            try:
                _follow(client, run.run_id, server, poll)
            except KeyboardInterrupt:
                print(f"run {run.run_id}: it is not followed any more, and continues on the cluster", flush=True)
                raise
    except (SubmissionError, PackageError, versions.VersionError):
        raise
    except Exception as error:
        raise SubmissionError(_refusal(error, server)) from error
    return "run", run.run_id


def _health(client: kfp.Client) -> dict[str, Any] | None:
    """What KFP's API server says of itself; None if a gateway does not let this be asked.

    The server tells more than its proto has, its tag among it (kubeflow/pipelines 2.17.0,
    backend/src/apiserver/main.go, healthzResponse), and the generated client drops that.
    """
    api = client._healthz_api.api_client
    try:
        said = api.call_api(
            "/apis/v2beta1/healthz",
            "GET",
            response_type="object",
            auth_settings=["Bearer"],
            _return_http_data_only=True,
        )
    except kfp_server_api.ApiException as error:
        if error.status == 401:
            raise
        return None
    return said if isinstance(said, dict) else None


def _source(client: kfp.Client, path: str, server: Server, request: Request) -> dict[str, Any]:
    """What is run: the file itself, or the version that it becomes."""
    if request.pipeline is None:
        return {"pipeline_package_path": path}
    equals = {"operation": "EQUALS", "key": "display_name", "stringValue": request.pipeline}
    found = client.list_pipelines(filter=json.dumps({"predicates": [equals]}), namespace=server.namespace).pipelines
    if not found:
        made = client.upload_pipeline(path, request.pipeline, namespace=server.namespace)
        print(f"Uploaded pipeline {request.pipeline}: {made.pipeline_id}", flush=True)
        pipeline = made.pipeline_id
        [version] = client.list_pipeline_versions(pipeline, page_size=1).pipeline_versions
    else:
        # A version is what was uploaded at a time, and never changes.
        pipeline = found[0].pipeline_id
        label = f"{request.pipeline} {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
        version = client.upload_pipeline_version(path, label, pipeline_id=pipeline)
        print(f"Uploaded version {label!r} of pipeline {request.pipeline}", flush=True)
    return {"pipeline_id": pipeline, "version_id": version.pipeline_version_id}


def _refusal(error: Exception, server: Server) -> str:
    """What went wrong, and where, from what the generated client raised: whatever its HTTP library does."""
    if getattr(error, "status", None) == 401:
        given = "the token" if server.token else "a request without a token"
        return (
            f"{server.host}: the server does not accept {given} (401 Unauthorized). Give one that is valid in "
            "KFP_TOKEN, such as `kubectl create token` prints, or the one that the platform's login page hands out."
        )
    return f"{server.host}: {type(error).__name__}: {_reason(error, server)}"


def _reason(error: Exception, server: Server) -> str:
    """An error's own words, without the token."""
    reason = str(getattr(error, "body", None) or getattr(error, "reason", None) or error)
    return reason.replace(server.token, "***") if server.token else reason


def _follow(client: kfp.Client, run_id: str, server: Server, poll: float) -> None:
    seen: dict[str, str] = {}
    while True:
        run = _patiently(lambda: client.get_run(run_id), server, poll)
        for task in (run.run_details and run.run_details.task_details) or []:
            if seen.get(task.display_name) != task.state:
                seen[task.display_name] = task.state
                print(f"{task.display_name}: {task.state}", flush=True)
        if run.state in _FINAL:
            break
        time.sleep(poll)
    if run.state != "SUCCEEDED":
        raise SubmissionError(f"run {run_id}: {run.state}. {_message(run)}")
    print(f"run {run_id}: {run.state}", flush=True)


def _patiently(call: Callable[[], _T], server: Server, poll: float) -> _T:
    """Call again while the server has an error of its own or is not there; a refusal counts at once.

    Raises:
        SubmissionError: if that lasts for a quarter of an hour.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return call()
        except Exception as error:
            status = getattr(error, "status", None)
            if isinstance(status, int) and 400 <= status < 500 and status not in (408, 429):
                raise
            if time.monotonic() > deadline:
                raise SubmissionError(
                    f"the server has not answered for {_PATIENCE_SECONDS:.0f} s: {_reason(error, server)}. The run "
                    "continues."
                ) from error
            print(f"submit: {status or type(error).__name__}: {_reason(error, server)}; trying again", flush=True)
            time.sleep(poll)


def _message(run: Any) -> str:
    tasks = (run.run_details and run.run_details.task_details) or []
    failed = [f"{t.display_name}: {t.error.message if t.error else t.state}" for t in tasks if t.state == "FAILED"]
    return "; ".join([*failed, *([run.error.message] if run.error and run.error.message else [])])
