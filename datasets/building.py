"""Run a TFDS build on Beam: choose the runner, and give its workers the project's code."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

_ROOT = Path(__file__).parents[1]
# TFDS's own writer in this process also keeps up to this many bytes in memory.
_IN_MEMORY = 1 << 30
_WORKER_PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "keras-spatial-workers"
version = "0"
description = "keras_spatial and its data sets, for Beam workers only"

[tool.setuptools.packages.find]
include = ["keras_spatial*", "datasets*"]
"""


def build(
    builder: tfds.core.DatasetBuilder,
    manual_dir: str | Path | None = None,
    beam_options: list[str] | None = None,
    file_format: str | None = None,
) -> None:
    """Build a data set unless it exists.

    Args:
        builder: the builder of a data set with its configuration and data_dir.
        manual_dir: the folder of the user's files, for data sets that need one.
        beam_options: the options of the Beam pipeline. Without `--runner`, Beam's local runner does the work in this
            process, or in others with `["--direct_num_workers=4", "--direct_running_mode=multi_processing"]`. The
            workers of other runners get the project's code (see `worker_package`), unless an image, a package or a
            setup file is given, or they run in this process (`--environment_type=LOOPBACK`). A worker process handles
            one case at a time, unless `--number_of_worker_harness_threads` says otherwise.
        file_format: the format of the files; None for TFDS's default, TFRecord.
    """
    # Only a build needs Beam, whose import takes seconds.
    from apache_beam.options.pipeline_options import (
        DebugOptions,
        PipelineOptions,
        PortableOptions,
        SetupOptions,
        StandardOptions,
        WorkerOptions,
    )

    with tempfile.TemporaryDirectory() as folder:
        options = PipelineOptions(beam_options or [])
        remote = options.view_as(StandardOptions).runner not in (None, "DirectRunner")
        setup = options.view_as(SetupOptions)
        debug = options.view_as(DebugOptions)
        if remote and debug.number_of_worker_harness_threads is None:
            debug.number_of_worker_harness_threads = 1
        given = setup.extra_packages or setup.setup_file or options.view_as(WorkerOptions).sdk_container_image
        if remote and not given and options.view_as(PortableOptions).environment_type != "LOOPBACK":
            setup.extra_packages = [str(worker_package(folder))]
        config = tfds.download.DownloadConfig(
            manual_dir=None if manual_dir is None else str(manual_dir),
            beam_runner=None if remote else local_runner(),
            beam_options=options,
        )
        builder.download_and_prepare(download_config=config, file_format=file_format)


def local_runner() -> Any:
    """Beam's runner in this process. Beam's "DirectRunner" would first try to download another runner, Prism."""
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    return FnApiRunner()


def on_local_runner(config: tfds.download.DownloadConfig) -> tfds.download.DownloadConfig:
    """Replace the "DirectRunner", which plain `tfds build` uses, by the local runner, which downloads nothing."""
    from apache_beam.options.pipeline_options import StandardOptions
    from apache_beam.runners.direct.direct_runner import DirectRunner

    runner: Any = config.beam_runner
    if runner is None and config.beam_options is not None:
        runner = config.beam_options.view_as(StandardOptions).runner
    if runner in (None, "DirectRunner") or isinstance(runner, DirectRunner):
        return config.replace(beam_runner=local_runner())
    return config


def pipeline(config: tfds.download.DownloadConfig) -> Any:
    """A Beam pipeline on the runner of a build's configuration."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, TypeOptions

    options = config.beam_options or PipelineOptions()
    # TFDS does the same for its own pipeline: Beam does not understand type annotations with protocols.
    options.view_as(TypeOptions).pipeline_type_check = False
    return beam.Pipeline(config.beam_runner, options=options)


def writes_on_beam(config: tfds.download.DownloadConfig, size: int) -> bool:
    """Whether TFDS writes the examples with Beam, rather than with its own writer in this process.

    In a single process, planning the pipelines of three splits takes 1.7 seconds and gains nothing. Besides, Beam's
    local runner keeps in memory everything that it groups by files, while TFDS's own writer moves examples beyond a
    gigabyte to disk.

    Args:
        config: the runner and its options.
        size: the number of bytes of all examples.
    """
    from apache_beam.options.pipeline_options import DirectOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    if not isinstance(config.beam_runner, FnApiRunner):
        return True
    options = config.beam_options
    workers = 1 if options is None else options.view_as(DirectOptions).direct_num_workers
    return workers != 1 and size <= _IN_MEMORY


def worker_package(folder: str | Path) -> Path:
    """Make a wheel of `keras_spatial` and `datasets` for Beam's `--extra_package`.

    The wheel has no dependencies; the image of the workers must have those of the extra `app`. It is only for workers,
    because its top-level package `datasets` would hide that of Hugging Face.

    Args:
        folder: the folder for the wheel.

    Returns:
        The path of the wheel.

    Raises:
        RuntimeError: if setuptools cannot build it.
    """
    folder = Path(folder).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch)
        for package in ("keras_spatial", "datasets"):
            shutil.copytree(
                _ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__", "dummy_data")
            )
        (project / "pyproject.toml").write_text(_WORKER_PROJECT)
        code = f"import setuptools.build_meta as b; print(b.build_wheel({str(folder)!r}))"
        done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"setuptools could not package {_ROOT} for the Beam workers:\n{done.stderr[-2000:]}")
    return folder / done.stdout.split()[-1]
