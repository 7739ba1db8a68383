"""Compiling pipelines to KFP's YAML, checking such files, and sending them to a cluster."""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp
import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.dsl.base_component import BaseComponent
from kfp.pipeline_spec import pipeline_spec_pb2

_FINAL = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}


class PackageError(ValueError):
    """A pipeline file is no package that this version can submit."""


class SubmissionError(RuntimeError):
    """The KFP server refused a request or cannot be reached, or the run failed."""


@dataclass(frozen=True)
class Server:
    """How to reach KFP's API server."""

    host: str
    namespace: str | None = None
    token: str | None = None


def compile_pipeline(pipeline: BaseComponent, path: str | Path) -> Path:
    """Write a pipeline as YAML; the file appears only when it is complete and was read back.

    Raises:
        PackageError: if the path does not end in .yaml, or what was written is not valid.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml"):
        raise PackageError(f"{path}: expected a name that ends in .yaml.")
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
        documents = list(yaml.safe_load_all(Path(path).read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise PackageError(f"{path}: cannot be read as YAML: {error}") from error
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


def submit(path: str | Path, server: Server, name: str, *, wait: bool = False, poll: float = 10.0) -> str:
    """Start a run of a compiled pipeline.

    Args:
        path: of the YAML file.
        server: to send it to.
        name: of the run.
        wait: whether to follow the run to its end and print its state.
        poll: seconds between two looks at its state.

    Returns:
        The run's identity.

    Raises:
        PackageError: see `check_package`.
        SubmissionError: if the server cannot be reached or refuses, or the awaited run does not succeed.
    """
    check_package(path)
    try:
        client = kfp.Client(host=server.host, namespace=server.namespace or "kubeflow", existing_token=server.token)
        run = client.create_run_from_pipeline_package(
            str(path), arguments={}, run_name=name, experiment_name="keras-spatial", namespace=server.namespace
        )
        print(f"Run {run.run_id}: {server.host}/#/runs/details/{run.run_id}", flush=True)
        if wait:
            _follow(client, run.run_id, poll)
    except SubmissionError:
        raise
    except Exception as error:
        # The generated client raises whatever its HTTP library does.
        reason = getattr(error, "body", None) or getattr(error, "reason", None) or error
        raise SubmissionError(f"{server.host}: {type(error).__name__}: {reason}") from error
    return run.run_id


def _follow(client: kfp.Client, run_id: str, poll: float) -> None:
    seen: dict[str, str] = {}
    while True:
        run = client.get_run(run_id)
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


def _message(run: Any) -> str:
    tasks = (run.run_details and run.run_details.task_details) or []
    failed = [f"{t.display_name}: {t.error.message if t.error else t.state}" for t in tasks if t.state == "FAILED"]
    return "; ".join([*failed, *([run.error.message] if run.error and run.error.message else [])])
