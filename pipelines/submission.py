"""Compile pipelines to KFP's YAML, check such files, and send them to a cluster."""

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

from components.console import say, visible
from components.files import parse_json
from pipelines import versions
from pipelines.bounded_yaml import YamlError, YamlLimits, read_yaml
from pipelines.settings import Settings, SettingsError, check

# KFP allows packages of up to 32 MiB; those of this project have about 100 kB.
_PACKAGE = YamlLimits(size=1 << 22, values=500_000)
_FINAL = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
# For how many seconds a server may answer with server errors, or not at all, while a run is followed.
_PATIENCE_SECONDS = 900.0
_T = TypeVar("_T")


class PackageError(ValueError):
    """A file is not a pipeline that this version can submit."""


class SubmissionError(RuntimeError):
    """The KFP server refused a request or cannot be reached, or the run failed."""


class AddressError(ValueError):
    """The address of KFP's API server cannot be used, or cannot be used with a token."""


# The file with the token that KFP's client sends by default in a pod, and the variable that names another file.
_POD_TOKEN, _POD_TOKEN_VARIABLE = Path("/var/run/secrets/kubeflow/pipelines/token"), "KF_PIPELINES_SA_TOKEN_PATH"


@dataclass(frozen=True)
class Server:
    """How to reach KFP's API server.

    Attributes:
        host: the address of the server, such as "https://kubeflow.example.org/pipeline", without a user name and
            password.
        namespace: the namespace of the run.
        token: the bearer token. It is never shown.
        allow_http: whether the token may be sent unencrypted, so that others on the network can read it.

    Raises:
        AddressError: if the address is invalid or contains a password, or a token would be sent to another machine by
            plain HTTP without `allow_http`.
    """

    host: str
    namespace: str | None = None
    token: str | None = field(default=None, repr=False)
    allow_http: bool = False

    def __post_init__(self) -> None:
        if "@" in self.host:
            raise AddressError(
                "--host (KFP_HOST): expected an address without a user name and password, which KFP does not accept. "
                "Received: an address with an @, which is not shown here. Give a token in KFP_TOKEN instead."
            )
        try:
            # KFP's client uses HTTPS for an address without a scheme.
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
                f"--host (KFP_HOST): expected https://, because a token is sent. Received: {self.host!r}, so that "
                "others on the network could read it. Use https, a forwarded port of this machine, or --allow-http."
            )

    def _sends_token(self) -> bool:
        return bool(self.token) or Path(os.environ.get(_POD_TOKEN_VARIABLE) or _POD_TOKEN).exists()


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def compile_pipeline(pipeline: BaseComponent, path: str | Path) -> Path:
    """Write a pipeline as YAML. The file appears only when it is complete and has been read back.

    Args:
        pipeline: the pipeline.
        path: the path of the file, which ends in .yaml.

    Returns:
        The path.

    Raises:
        PackageError: if the path does not end in .yaml, or the written file is not valid.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml") or path.is_dir():
        raise PackageError(f"{path}: expected the name of a file that ends in .yaml.")
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
        The specification of the pipeline.

    Raises:
        PackageError: if the file cannot be read, is not a pipeline, has unknown fields, or was compiled by another
            minor version of KFP.
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
    # ParseError, and a SystemError for a text that is not Unicode.
    except Exception as error:
        raise PackageError(f"{path}: is not a KFP pipeline: {visible(error)}") from error


def _minor(version: str) -> str:
    match = re.match(r"kfp-(\d+\.\d+)\.", version)
    return match[1] if match else ""


@dataclass(frozen=True)
class Request:
    """A run, or a schedule of runs.

    Attributes:
        name: the name of the run or schedule.
        arguments: the values of parameters of the pipeline; other parameters keep their defaults.
        experiment: the experiment to which it belongs, which is made if it does not exist.
        service_account: the service account of the steps' pods; None for KFP's default.
        pipeline_root: the URL below which KFP keeps artifacts; None for its default.
        pipeline: the name under which the package is uploaded, as a new version if there is such a pipeline already;
            None for no upload.
        cron: the schedule as KFP writes it, with seconds first; None for one run now.
        no_cache: whether to run every step, even if KFP's cache has its results.
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
    """The values of a pipeline's parameters in `name=value` strings: text as it is, and everything else as JSON.

    Raises:
        PackageError: if a parameter does not exist, a value does not have its type, or the steps would refuse the value
            as a setting.
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
        if kind not in expected:
            raise PackageError(f"--argument: {name}: the package is damaged. Received: a parameter of type {kind}")
        try:
            values[name] = parse_json(value)
        except ValueError:
            values[name] = None
        right = isinstance(values[name], expected[kind])
        if not right or (kind.startswith("NUMBER") and isinstance(values[name], bool)):
            raise PackageError(f"--argument: {name}: expected {kind} as JSON. Received: {value!r}")
    _check_settings(known, values)
    return values


def _check_settings(parameters: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check the settings that a run will have, by the same rules as when a pipeline is compiled."""
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
        server: the server to which it is sent.
        request: what to run.
        wait: whether to follow the run to its end and print its state.
        any_version: whether to submit to a backend that is older than the package needs.
        kube_context: the context of the kubeconfig whose cluster is checked for Kubernetes and for what a training job
            needs; None for no such check.
        poll: the number of seconds between two looks at the run's state.

    Returns:
        "run" or "schedule", and its ID.

    Raises:
        PackageError: if the file cannot be used, see `check_package`, or `wait` is given for a schedule.
        VersionError: if something on the cluster is missing or too old, see `pipelines.versions`.
        SubmissionError: if the server refuses or cannot be reached, or the awaited run does not succeed.
    """
    spec = check_package(path)
    if wait and request.cron:
        raise PackageError(f"--wait: a schedule never ends. Received: --cron {request.cron!r}")
    try:
        client = kfp.Client(host=server.host, namespace=server.namespace or "kubeflow", existing_token=server.token)
        if not any_version:
            say(versions.check_backend(_health(client)))
        if kube_context is not None:
            for note in versions.check_cluster(versions.kubernetes(kube_context), versions.launched_job(spec)):
                say(note)
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
                # Runs do not overlap, and runs that were missed are not caught up.
                max_concurrency=1,
                no_catchup=True,
                **source,
                **common,
            )
            return "schedule", schedule.recurring_run_id
        run = client.run_pipeline(experiment, request.name, **source, **common)
        say(f"Run {run.run_id}: {server.host}/#/runs/details/{run.run_id}")
        if wait:
            try:
                _follow(client, run.run_id, server, poll)
            except KeyboardInterrupt:
                say(f"Run {run.run_id} is no longer followed. It continues on the cluster.")
                raise
    except (SubmissionError, PackageError, versions.VersionError):
        raise
    except Exception as error:
        raise SubmissionError(_refusal(error, server)) from error
    return "run", run.run_id


def _health(client: kfp.Client) -> dict[str, Any] | None:
    """What KFP's API server says about itself; None if a gateway does not pass the request on.

    The request is made without the generated client, which drops the server's version because its proto has no such
    field (kubeflow/pipelines 2.17.0, backend/src/apiserver/main.go, healthzResponse).
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
    """What KFP's client is told to run: the file itself, or the pipeline version as which it was uploaded."""
    if request.pipeline is None:
        return {"pipeline_package_path": path}
    equals = {"operation": "EQUALS", "key": "display_name", "stringValue": request.pipeline}
    found = client.list_pipelines(filter=json.dumps({"predicates": [equals]}), namespace=server.namespace).pipelines
    if not found:
        made = client.upload_pipeline(path, request.pipeline, namespace=server.namespace)
        say(f"Uploaded pipeline {request.pipeline}: {made.pipeline_id}")
        pipeline = made.pipeline_id
        [version] = client.list_pipeline_versions(pipeline, page_size=1).pipeline_versions
    else:
        # Versions never change, so each upload makes a new one, whose name has the time.
        pipeline = found[0].pipeline_id
        label = f"{request.pipeline} {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}"
        version = client.upload_pipeline_version(path, label, pipeline_id=pipeline)
        say(f"Uploaded version {label!r} of pipeline {request.pipeline}")
    return {"pipeline_id": pipeline, "version_id": version.pipeline_version_id}


def _refusal(error: Exception, server: Server) -> str:
    """Say what went wrong and where, for any error of the generated client and its HTTP library."""
    if getattr(error, "status", None) == 401:
        given = "the token" if server.token else "a request without a token"
        return (
            f"{server.host}: the server does not accept {given} (401 Unauthorized). Give one that is valid in "
            "KFP_TOKEN, such as `kubectl create token` prints, or one from the platform's login page."
        )
    return f"{server.host}: {type(error).__name__}: {_reason(error, server)}"


def _reason(error: Exception, server: Server) -> str:
    """The message of an error, without the token."""
    reason = visible(getattr(error, "body", None) or getattr(error, "reason", None) or error)
    return reason.replace(server.token, "***") if server.token else reason


def _follow(client: kfp.Client, run_id: str, server: Server, poll: float) -> None:
    seen: dict[str, str] = {}
    while True:
        run = _patiently(lambda: client.get_run(run_id), server, poll)
        for task in (run.run_details and run.run_details.task_details) or []:
            if seen.get(task.display_name) != task.state:
                seen[task.display_name] = task.state
                say(f"{task.display_name}: {task.state}")
        if run.state in _FINAL:
            break
        time.sleep(poll)
    if run.state != "SUCCEEDED":
        raise SubmissionError(visible(f"run {run_id}: {run.state}. {_message(run)}"))
    say(f"run {run_id}: {run.state}")


def _patiently(call: Callable[[], _T], server: Server, poll: float) -> _T:
    """Call again while the server fails or cannot be reached. An error that the request caused is raised at once.

    Raises:
        SubmissionError: if the server fails for a quarter of an hour.
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
            say(f"submit: {status or type(error).__name__}: {_reason(error, server)}; trying again")
            time.sleep(poll)


def _message(run: Any) -> str:
    tasks = (run.run_details and run.run_details.task_details) or []
    failed = [f"{t.display_name}: {t.error.message if t.error else t.state}" for t in tasks if t.state == "FAILED"]
    return "; ".join([*failed, *([run.error.message] if run.error and run.error.message else [])])
