"""`python -m pipelines`: run, compile and submit the pipelines."""

import contextlib
import math
import os
import sys
from pathlib import Path
from typing import Any

import click

from pipelines.settings import Settings, SettingsError, dump, load

# What the demo trains with: steps over all epochs, unless the minutes end it before. More phantoms cost seconds to make
# and spare the network learning the few lesions of a small set by heart.
_DEMO_PHANTOMS = 32
_DEMO_STEPS = 900
_DEMO_MINUTES = 4.5


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Kubeflow pipelines for liver and lesion segmentation with spatially partitioned networks."""


@main.command()
@click.option("--run-dir", default="runs/demo", show_default=True, help="Folder for everything of the run.")
@click.option("--data", default="", help="Folder with volume-N.nii[.gz] and segmentation-N.nii[.gz]. [phantoms]")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a setting; repeatable.")
def demo(run_dir: str, data: str, assignments: tuple[str, ...]) -> None:
    """The whole chain within minutes: phantom CTs (or yours) to a report."""
    cases = _cases(data) if data else _DEMO_PHANTOMS
    training = max(1, cases - 2 * max(1, round(cases * 15 / 131)))
    defaults = {
        "data": str(Path(data).resolve()) if data else "",
        "phantoms": _DEMO_PHANTOMS,
        "filters": 8,
        "epochs": max(1, math.ceil(_DEMO_STEPS / training)),
        "minutes": _DEMO_MINUTES,
        "thresholds": True,
        "on_bad_case": "skip",
        "title": "Demo: your own volumes" if data else "Demo: LiTS-like phantoms",
    }
    _run("lits_segmentation", load(None, assignments, **defaults), run_dir)


@main.command()
@click.argument("name")
@click.option("--config", type=click.Path(dir_okay=False), help="YAML file of settings.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a setting; repeatable.")
@click.option("--run-dir", help="Folder for everything of the run. [runs/NAME]")
def run(name: str, config: str | None, assignments: tuple[str, ...], run_dir: str | None) -> None:
    """Run pipeline NAME here; what an earlier run in the same folder finished is not done again."""
    _run(name, load(config, assignments), run_dir or f"runs/{name}")


@main.command("compile")
@click.argument("name")
@click.option("--output", required=True, help="YAML file to write.")
@click.option("--config", type=click.Path(dir_okay=False), help="YAML file of settings.")
@click.option(
    "--cluster", "cluster_file", type=click.Path(dir_okay=False), help="YAML file of the cluster's resources."
)
@click.option("--image", default="", help="Container image, instead of the cluster file's.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a setting; repeatable.")
def compile_command(
    name: str, output: str, config: str | None, cluster_file: str | None, image: str, assignments: tuple[str, ...]
) -> None:
    """Compile pipeline NAME for a cluster."""
    from pipelines import catalogue
    from pipelines.cluster import Cluster, load_cluster
    from pipelines.submission import compile_pipeline

    cluster = load_cluster(cluster_file, image) if cluster_file else Cluster.model_validate({"image": image})
    if "@sha256:" not in cluster.image:
        click.echo(
            f"Warning: image {cluster.image or 'of the components'!r} is a tag, which may be moved. Name it by its "
            "digest (@sha256:...), so that every pod runs the same code.",
            err=True,
        )
    path = compile_pipeline(catalogue.build(name, load(config, assignments), cluster), output)
    click.echo(f"Compiled {name}: {path}")


@main.command()
@click.argument("package")
@click.option("--host", envvar="KFP_HOST", required=True, help="Address of KFP's API. [KFP_HOST]")
@click.option("--namespace", envvar="KFP_NAMESPACE", help="Namespace of the run. [KFP_NAMESPACE]")
@click.option("--token", envvar="KFP_TOKEN", help="Bearer token; better by environment. [KFP_TOKEN]")
@click.option("--allow-http", is_flag=True, help="Send the token unencrypted, to an http:// address.")
@click.option("--name", help="Name of the run. [the file's]")
@click.option("--experiment", default="keras-spatial", show_default=True, help="Experiment of the run.")
@click.option("--argument", "arguments", multiple=True, metavar="NAME=VALUE", help="Parameter of the run; repeatable.")
@click.option("--service-account", help="Service account of the steps' pods. [KFP's default]")
@click.option("--pipeline-root", help="Where KFP keeps artifacts, such as s3://bucket/folder. [KFP's default]")
@click.option("--upload", "pipeline", metavar="PIPELINE", help="Upload the package as a version of PIPELINE first.")
@click.option("--cron", help="Run it again and again: seconds, minutes, hours, day, month, weekday. [once]")
@click.option("--no-cache", is_flag=True, help="Run every step, whatever KFP's cache holds.")
@click.option("--wait", is_flag=True, help="Follow the run to its end; the exit status is the run's.")
def submit(
    package: str,
    host: str,
    namespace: str | None,
    token: str | None,
    allow_http: bool,
    name: str | None,
    wait: bool,
    **options: Any,
) -> None:
    """Start a run of the compiled pipeline PACKAGE on a cluster, once or by a schedule."""
    from pipelines.submission import Request, Server, check_package, read_arguments
    from pipelines.submission import submit as send

    server = Server(host, namespace, token, allow_http)
    arguments = read_arguments(check_package(package), options.pop("arguments"))
    kind, identity = send(package, server, Request(name or Path(package).stem, arguments, **options), wait=wait)
    click.echo(f"Submitted: {kind} {identity}")


@main.command("settings")
@click.option("--config", type=click.Path(dir_okay=False), help="YAML file of settings.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a setting; repeatable.")
def show_settings(config: str | None, assignments: tuple[str, ...]) -> None:
    """Print all settings as a YAML file."""
    click.echo(dump(load(config, assignments)), nl=False)


def _cases(data: str) -> int:
    from components.cases import open_folder

    return len(open_folder(data).cases)


def _check_files(name: str, settings: Settings) -> None:
    """What can be known of the input files in seconds, before the first step."""
    from components import storage
    from components.compare.compare import read_baseline
    from components.segment.segment import volumes_in

    if name == "batch_inference":
        if not storage.is_url(settings.data):
            volumes_in(settings.data)
    elif settings.data:
        _cases(settings.data)
    for setting, place in (("data", settings.data), ("model", settings.model), ("task", settings.task)):
        if storage.is_url(place) and not storage.exists(place):
            raise SettingsError(f"{setting}: nothing is at this URL. Received: {place!r}")
    if settings.model and not storage.is_url(settings.model):
        _check_model(Path(settings.model), settings.task)
    if settings.baseline:
        read_baseline(settings.baseline)


def _check_model(path: Path, task: str) -> None:
    from components import storage
    from components.segment.segment import model_file
    from components.train.settings import MODEL
    from keras_spatial.inference.tasks import chosen_task

    if not path.exists():
        raise SettingsError(f"model: no such file or folder. Received: {str(path)!r}")
    file = model_file(path)
    if not file.is_file():
        raise SettingsError(f"model: expected a .keras file, or a folder with {MODEL}. Received: {str(path)!r}")
    if not os.access(file, os.R_OK):
        raise SettingsError(f"model: expected a file that this user can read. Received: {str(file)!r}")
    if not storage.is_url(task):
        chosen_task(file, task, "--set task=")


def _run(name: str, settings: Settings, run_dir: str) -> None:
    from pipelines import catalogue, local

    pipeline = catalogue.build(name, settings)
    _check_files(name, settings)
    folder = local.check_folder(run_dir)
    click.echo(f"Pipeline {name} in {folder}")
    steps = local.run(pipeline, folder, dump(settings))
    for line in catalogue.results(name, folder, steps):
        click.echo(line)


def _report(error: Exception) -> int:
    click.echo(f"FAILED: {type(error).__name__}: {error}", err=True)
    return 1


def cli(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a failure, 2 for bad arguments."""
    from components.compare.compare import BaselineError
    from components.storage import StorageError
    from keras_spatial.inference import NothingToSegment, ResultsCollide, VolumesBelow
    from keras_spatial.volumes import TaskError, VolumeError
    from pipelines.catalogue import UnknownPipeline
    from pipelines.local import Ended, RunFolderError, StepFailed
    from pipelines.submission import AddressError, PackageError, SubmissionError

    try:
        result: Any = main.main(args=arguments, prog_name="python -m pipelines", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort:
        click.echo("FAILED: interrupted; finished steps are kept.", err=True)
        return 130
    except Ended as ended:
        with contextlib.suppress(OSError):  # After SIGHUP the terminal is gone.
            click.echo(f"FAILED: {ended}; finished steps are kept, and the same command resumes after them.", err=True)
        return 128 + ended.number
    except (
        SettingsError,
        UnknownPipeline,
        RunFolderError,
        AddressError,
        PackageError,
        TaskError,
        VolumeError,
        BaselineError,
        StorageError,
        NothingToSegment,
        VolumesBelow,
        ResultsCollide,
    ) as error:
        _report(error)
        return 2
    except (StepFailed, SubmissionError) as error:
        return _report(error)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(cli())
