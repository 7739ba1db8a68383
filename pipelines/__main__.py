"""`python -m pipelines`: run, compile and submit the pipelines.

TensorFlow and KFP take many seconds to import. So the help, the settings and all messages about arguments do without
them, and each command imports only what it needs.
"""

import contextlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.console import visible
from pipelines.catalogue import PIPELINES

if TYPE_CHECKING:
    from pipelines.settings import Settings

# The number of phantoms of the demo, and of its training steps over all epochs, unless the time limit ends it earlier.
# More phantoms take only seconds to make, and keep the network from memorising the lesions of a small set.
_DEMO_PHANTOMS = 32
_DEMO_STEPS = 900
_DEMO_MINUTES = 4.5
# The Hounsfield units of a liver and its surroundings. With the default, -512 to 512, lesions have two fifths of that
# contrast.
_DEMO_WINDOW = (-160, 240)

# The errors whose message is all that a person needs, so no traceback is shown: refusals have the exit status 2, and
# failures 1. They are named rather than imported, because most of their modules import TensorFlow or KFP.
REFUSALS = (
    "components.validate.settings.SettingsError",
    "pipelines.catalogue.UnknownPipeline",
    "pipelines.local.RunFolderError",
    "pipelines.submission.AddressError",
    "pipelines.submission.PackageError",
    "keras_spatial.volumes.volume.VolumeError",
    "keras_spatial.volumes.task.TaskError",
    "datasets.object_store.StorageError",
    "components.compare.compare.BaselineError",
    "keras_spatial.inference.sources.NothingToSegment",
    "keras_spatial.inference.sources.ResultsCollide",
    "keras_spatial.inference.sources.VolumesBelow",
)
FAILURES = (
    "pipelines.local.StepFailed",
    "pipelines.submission.SubmissionError",
    "pipelines.versions.VersionError",
)

_LIST = "\b\nPipelines (NAME):\n" + "\n".join(f"  {name:<18}{text}" for name, text in PIPELINES.items())


def _with_options(*options: Callable) -> Callable:
    """One decorator for several options, which click shows in this order."""

    def decorate(function: Callable) -> Callable:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_config = click.option("--config", type=click.Path(dir_okay=False), help="Read settings from this YAML file.")
_set = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Give a setting another value. The option may be repeated; `python -m pipelines settings` lists all settings.",
)
_settings = _with_options(_config, _set)
_verbose = click.option("--verbose", is_flag=True, help="Show everything that the steps print, as in the log.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_LIST)
def main() -> None:
    """Run, compile and submit Kubeflow pipelines that segment CT volumes with spatially partitioned networks."""


@main.command()
@click.option("--run-dir", default="runs/demo", show_default=True, help="Keep everything of the run in this folder.")
@click.option(
    "--data",
    default="",
    help="Use the files volume-N.nii[.gz] and segmentation-N.nii[.gz] of this folder instead of phantoms.",
)
@_set
@_verbose
def demo(run_dir: str, data: str, assignments: tuple[str, ...], verbose: bool) -> None:
    """Run the whole chain within minutes, from phantom CTs (or yours) to a report."""
    from pipelines.settings import load

    place = str(Path(data).resolve()) if data else ""
    task = load(None, assignments, data=place).task
    cases, windowed = _cases(data, task) if data else (_DEMO_PHANTOMS, True)
    training = max(1, cases - 2 * max(1, round(cases * 15 / 131)))
    defaults = {
        "data": place,
        "phantoms": _DEMO_PHANTOMS,
        "filters": 8,
        "epochs": max(1, math.ceil(_DEMO_STEPS / training)),
        "minutes": _DEMO_MINUTES,
        "thresholds": True,
        "on_bad_case": "skip",
        "title": "Demo: your own volumes" if data else "Demo: LiTS-like phantoms",
    }
    if windowed:
        defaults["window"] = _DEMO_WINDOW
    _run("lits_segmentation", load(None, assignments, **defaults), run_dir, verbose)


@main.command(epilog=_LIST)
@click.argument("name")
@_settings
@click.option("--run-dir", help="Keep everything of the run in this folder.  [default: runs/NAME]")
@_verbose
def run(name: str, config: str | None, assignments: tuple[str, ...], run_dir: str | None, verbose: bool) -> None:
    """Run the pipeline NAME on this machine.

    Steps that an earlier run in the same folder has finished with the same inputs are not run again.
    """
    from pipelines.catalogue import check_name
    from pipelines.settings import load

    check_name(name)
    _run(name, load(config, assignments), run_dir or f"runs/{name}", verbose)


@main.command("compile", epilog=_LIST)
@click.argument("name")
@click.option("--output", required=True, help="Write the compiled pipeline to this YAML file.")
@click.option(
    "--cluster",
    "cluster_file",
    type=click.Path(dir_okay=False),
    help="Read the cluster's resources from this YAML file.",
)
@click.option("--image", default="", help="Use this container image instead of that of the cluster file.")
@_settings
def compile_command(
    name: str, output: str, config: str | None, cluster_file: str | None, image: str, assignments: tuple[str, ...]
) -> None:
    """Compile the pipeline NAME for a cluster."""
    from pipelines import catalogue

    catalogue.check_name(name)

    from pipelines.cluster import Cluster, load_cluster
    from pipelines.settings import load
    from pipelines.submission import compile_pipeline

    cluster = load_cluster(cluster_file, image) if cluster_file else Cluster.model_validate({"image": image})
    if "@sha256:" not in cluster.image:
        click.echo(
            f"Warning: the image {cluster.image or 'of the components'!r} is a tag, which may be moved. Name "
            "it by its digest (@sha256:...), so that every pod runs the same code.",
            err=True,
        )
    path = compile_pipeline(catalogue.build(name, load(config, assignments), cluster), output)
    click.echo(f"Compiled {name}: {path}")


@main.command()
@click.argument("package")
@click.option("--host", envvar="KFP_HOST", required=True, help="Address of KFP's API.  [env var: KFP_HOST]")
@click.option("--namespace", envvar="KFP_NAMESPACE", help="Namespace of the run.  [env var: KFP_NAMESPACE]")
@click.option("--token", envvar="KFP_TOKEN", help="Bearer token; better given as the variable.  [env var: KFP_TOKEN]")
@click.option("--allow-http", is_flag=True, help="Send the token unencrypted, to an address that begins with http://.")
@click.option("--name", help="Name of the run.  [default: that of the file]")
@click.option("--experiment", default="keras-spatial", show_default=True, help="Experiment to which the run belongs.")
@click.option(
    "--argument",
    "arguments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Give a parameter of the run another value. The option may be repeated.",
)
@click.option("--service-account", help="Service account of the pods of the steps.  [default: KFP's]")
@click.option(
    "--pipeline-root", help="Where KFP keeps the artifacts, such as s3://bucket/folder.  [default: KFP's own place]"
)
@click.option("--upload", "pipeline", metavar="PIPELINE", help="Upload the package as a version of PIPELINE first.")
@click.option(
    "--cron",
    help="Repeat the run by this schedule: seconds, minutes, hours, day, month, weekday.  [default: run once]",
)
@click.option("--no-cache", is_flag=True, help="Run every step, even if KFP's cache has its results.")
@click.option("--any-version", is_flag=True, help="Submit even to a backend that is older than the package needs.")
@click.option(
    "--kube-context",
    help="Check Kubernetes, Trainer, JobSet and Kueue in this context of the kubeconfig, too.",
)
@click.option("--wait", is_flag=True, help="Follow the run until it ends; the exit status is 1 if the run failed.")
def submit(
    package: str,
    host: str,
    namespace: str | None,
    token: str | None,
    allow_http: bool,
    name: str | None,
    wait: bool,
    any_version: bool,
    kube_context: str | None,
    **options: Any,
) -> None:
    """Start a run of the compiled pipeline PACKAGE on a cluster, once or repeatedly."""
    from pipelines.submission import Request, Server, check_package, read_arguments
    from pipelines.submission import submit as send

    server = Server(host, namespace, token, allow_http)
    arguments = read_arguments(check_package(package), options.pop("arguments"))
    request = Request(name or Path(package).stem, arguments, **options)
    kind, identity = send(package, server, request, wait=wait, any_version=any_version, kube_context=kube_context)
    click.echo(visible(f"Submitted: {kind} {identity}"))


@main.command("settings")
@_settings
def show_settings(config: str | None, assignments: tuple[str, ...]) -> None:
    """Print all settings as a YAML file."""
    from pipelines.settings import dump, load

    click.echo(dump(load(config, assignments)), nl=False)


def _cases(data: str, task: str = "") -> tuple[int, bool]:
    """The number of cases in a folder, and whether they are normalised by a window, as LiTS's are."""
    from components.cases import open_folder

    with open_folder(data, task) as folder:
        return len(folder.cases), folder.reader is None or bool(folder.numbers)


def _check_files(name: str, settings: "Settings") -> None:
    """Check the input files before the first step. The checks that take seconds come last."""
    from components import pure, storage
    from pipelines.settings import SettingsError

    for setting in ("data", "model", "task", "baseline"):
        place = getattr(settings, setting)
        if storage.is_url(place) and not storage.exists(place):
            raise SettingsError(f"{setting}: nothing is at this URL. Received: {place!r}")
    channels: tuple[str, ...] = ()
    if settings.model and not storage.is_url(settings.model):
        channels = _check_model(Path(settings.model), settings.task)
    if name != "batch_inference" and settings.network_source == "file" and not storage.is_url(settings.network):
        try:
            pure.load("_paths").regular(settings.network)
        except OSError as error:
            raise SettingsError(f"network: expected a .keras file. Received: {error}") from error
    if settings.baseline:
        from components.compare.compare import read_baseline

        read_baseline(storage.local(settings.baseline))
    if name == "batch_inference":
        from components.segment.volumes import check_url, volumes_in

        (check_url if storage.is_url(settings.data) else volumes_in)(settings.data, channels)
    elif settings.data:
        _cases(settings.data, settings.task)


def _check_model(path: Path, task: str) -> tuple[str, ...]:
    """The names of the channels that a model takes; none if its task is at a URL."""
    from components import storage
    from components.segment.volumes import model_file
    from components.train.settings import MODEL
    from keras_spatial.inference.tasks import channel_names, chosen_task
    from pipelines.settings import SettingsError

    if not path.exists():
        raise SettingsError(f"model: no such file or folder. Received: {str(path)!r}")
    file = model_file(path)
    if not file.is_file():
        raise SettingsError(f"model: expected a .keras file, or a folder with {MODEL}. Received: {str(path)!r}")
    if not os.access(file, os.R_OK):
        raise SettingsError(f"model: expected a file that this user can read. Received: {str(file)!r}")
    return () if storage.is_url(task) else channel_names(chosen_task(file, task, "--set task="))


def _run(name: str, settings: "Settings", run_dir: str, verbose: bool) -> None:
    from components.checking import check_apart
    from pipelines import catalogue, local
    from pipelines.settings import dump

    pipeline = catalogue.build(name, settings)
    _check_files(name, settings)
    check_apart(name, settings)
    folder = local.check_folder(run_dir)
    click.echo(f"Pipeline {name} in {folder}")
    steps = local.run(pipeline, folder, dump(settings), verbose=verbose)
    for line in catalogue.results(name, folder, steps):
        click.echo(visible(line))


def cli(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for a failure, or 2 for bad arguments."""
    from pipelines.local import Ended

    try:
        result: Any = main.main(args=arguments, prog_name="python -m pipelines", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort:
        click.echo("FAILED: interrupted.", err=True)
        return 130
    except Ended as ended:
        # After SIGHUP, the terminal no longer exists.
        with contextlib.suppress(OSError):
            click.echo(f"FAILED: {ended}; finished steps are kept, and the same command resumes after them.", err=True)
        return 128 + ended.number
    except Exception as error:
        kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
        if kinds.isdisjoint((*REFUSALS, *FAILURES)):
            raise
        click.echo(visible(f"FAILED: {type(error).__name__}: {error}"), err=True)
        return 1 if kinds.isdisjoint(REFUSALS) else 2
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(cli())
