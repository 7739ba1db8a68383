"""Beam: the local runner downloads nothing, portable workers have only our package, and a killed build resumes."""

import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, SetupOptions
from apache_beam.runners.portability import prism_runner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from datasets import building, lits, phantom
from datasets.building import build, on_local_runner, worker_package, writes_on_beam
from datasets.lits import conversion
from datasets.lits.lits_dataset_builder import Builder, LitsConfig

ROOT = Path(__file__).parents[2]
PORTABLE = ["--runner=PortableRunner", "--job_endpoint=embed"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    phantom.write_lits_folder(folder, 3, size=(20, 18, 16))
    return folder


@pytest.fixture(scope="module")
def local(folder, tmp_path_factory):
    return lits.prepare(folder, tmp_path_factory.mktemp("local"), 16, (2, 1, 1))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return worker_package(tmp_path_factory.mktemp("wheel"))


def same(ours, theirs):
    for split in ("train", "validation", "test"):
        for a, b in zip(ours.as_dataset(split), theirs.as_dataset(split), strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])
            np.testing.assert_array_equal(a["label"], b["label"])


def test_a_plain_tfds_build_looks_for_no_other_runner(local, folder, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(prism_runner.PrismRunner, "run_pipeline", lambda *a: tried.append(a))
    builder = Builder(config=LitsConfig(resolution=16, blocks=(2, 1, 1)), data_dir=str(tmp_path))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(folder)))
    assert not tried
    same(builder, local)


@pytest.mark.parametrize(
    "options, size, expected",
    [
        ([], 1 << 20, False),
        (["--runner=DirectRunner"], 1 << 20, False),
        (["--direct_num_workers=2", "--direct_running_mode=multi_processing"], 1 << 20, True),
        (["--direct_num_workers=2", "--direct_running_mode=multi_processing"], 1 << 32, False),
        (["--runner=DataflowRunner"], 1 << 32, True),
        (PORTABLE, 1 << 20, True),
    ],
)
def test_examples_are_written_by_beam_where_it_has_workers_and_does_not_keep_all_in_memory(options, size, expected):
    config = tfds.download.DownloadConfig(beam_options=PipelineOptions(options))
    assert writes_on_beam(on_local_runner(config), size) == expected


@pytest.mark.parametrize(
    "options, expected",
    [([], [["cases", "one case per task", "convert"]]), (["--direct_num_workers=2"], [["cases"], ["train", "test"]])],
    ids=["in this process", "with workers"],
)
def test_the_runner_gets_no_empty_pipeline(local, folder, tmp_path, monkeypatch, options, expected):
    seen = []

    class Recording(FnApiRunner):
        def run_pipeline(self, pipeline, options):
            seen.append([part.full_label for part in pipeline.transforms_stack[0].parts])
            return super().run_pipeline(pipeline, options)

    monkeypatch.setattr(building, "local_runner", Recording)
    same(lits.prepare(folder, tmp_path, 16, (2, 1, 1), beam_options=options), local)
    assert len(seen) == len(expected)
    assert all(set(some) <= set(found) for some, found in zip(expected, seen, strict=True))


def test_a_portable_runner_gives_the_same(local, folder, tmp_path):
    options = [*PORTABLE, "--environment_type=LOOPBACK"]
    same(lits.prepare(folder, tmp_path, 16, (2, 1, 1), beam_options=options), local)


def test_workers_need_no_more_than_the_package(local, folder, package, tmp_path):
    with zipfile.ZipFile(package) as wheel:
        wheel.extractall(tmp_path / "installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = Path(sys.executable)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # The pool starts its workers as plain `python`.
    environment |= {"PYTHONPATH": str(tmp_path / "installed"), "PATH": f"{python.parent}:{os.environ['PATH']}"}
    command = [python, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    with (tmp_path / "pool.log").open("w") as log:
        pool = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        wait_for(port, pool)
        options = [*PORTABLE, "--environment_type=EXTERNAL", f"--environment_config=localhost:{port}"]
        same(lits.prepare(folder, tmp_path / "data", 16, (2, 1, 1), beam_options=options), local)
    finally:
        pool.terminate()
        pool.wait(20)


def wait_for(port, process, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"the worker pool did not start; it ended with {process.poll()}")


def test_the_package_holds_the_library_and_the_data_sets_only(package):
    names = zipfile.ZipFile(package).namelist()
    assert {"keras_spatial/volumes/__init__.py", "datasets/conversion.py"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"keras_spatial", "datasets", "keras_spatial_workers-0.dist-info"}


@pytest.mark.parametrize(
    "options, sent",
    [
        ([], []),
        (["--runner=DirectRunner", "--direct_num_workers=2"], []),
        (["--runner=FlinkRunner", "--flink_master=localhost:8081"], ["keras_spatial_workers-0-py3-none-any.whl"]),
        (["--runner=DataflowRunner", "--sdk_container_image=registry/image"], []),
        (["--runner=SparkRunner", "--extra_package=ours.whl"], ["ours.whl"]),
        (["--runner=SparkRunner", "--environment_type=LOOPBACK"], []),
    ],
)
def test_what_workers_are_sent(options, sent):
    found = {}

    class Recorder:
        def download_and_prepare(self, download_config, file_format):
            setup = download_config.beam_options.view_as(SetupOptions)
            found["sent"] = [Path(p).name for p in setup.extra_packages or []]
            found["threads"] = download_config.beam_options.view_as(DebugOptions).number_of_worker_harness_threads
            found["local"] = download_config.beam_runner is not None

    build(Recorder(), beam_options=options)  # pyright: ignore
    assert found["sent"] == sent
    remote = any(o.startswith("--runner=") and "Direct" not in o for o in options)
    assert (found["local"], found["threads"]) == (not remote, 1 if remote else None)


KILLED = """
import os, sys
from datasets import lits
from datasets.lits import conversion

real = conversion.read_case
conversion.read_case = lambda case, limits: os._exit(9) if case.number == 2 else real(case, limits)
lits.prepare(sys.argv[1], sys.argv[2], 16, (2, 1, 1))
"""


def test_a_killed_build_leaves_nothing_to_load_and_does_no_case_twice(local, folder, tmp_path, monkeypatch):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, folder, tmp_path], env=environment, check=False)
    assert done.returncode == 9
    with pytest.raises(tfds.core.dataset_info.DatasetInfoFileError, match=r"dataset_info\.json"):
        tfds.builder_from_directory(str(tmp_path / "lits/16-blocks-2x1x1/2.0.0"))
    read = []
    real = conversion.read_case
    monkeypatch.setattr(conversion, "read_case", lambda case, limits: read.append(case.number) or real(case, limits))
    same(lits.prepare(folder, tmp_path, 16, (2, 1, 1)), local)
    kept = [number for number in (0, 1) if number not in read]
    assert 2 in read and kept
    assert sorted(set(read)) == sorted(read)
