"""Every example of every docstring runs, and everything public that a user calls has one."""

import importlib
import inspect
import multiprocessing
from pathlib import Path

import docs_examples
import pytest
from test_api_pages import MODULES, public

_SECONDS = 300
_EXAMPLES = list(docs_examples.examples())
_PARTS = sorted({e.part for e in _EXAMPLES})

# Names, arguments and imports of these are checked nevertheless.
_NOT_RUN = {
    "keras_spatial.runtimes.tpu.tpu_strategy": "it needs TPU cores",
    "keras_spatial.processes.initialize": "it needs four processes, each of which runs it",
}


@pytest.fixture(scope="module")
def processes():
    """Processes whose parent has imported the package, which takes longer than most examples."""
    context = multiprocessing.get_context("forkserver")
    preloaded = ["docs_examples", "docs_scene", "keras_spatial", "keras_spatial.data", "keras_spatial.inference"]
    context.set_forkserver_preload(preloaded)
    return context


def finish(process, log, said):
    process.start()
    process.join(_SECONDS)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, f"{said}:\n{Path(log).read_text(encoding='utf-8')[-6000:]}"


@pytest.fixture(scope="module")
def files(processes, tmp_path_factory):
    """A folder with the files that examples read."""
    folder = tmp_path_factory.mktemp("files")
    log = folder.with_name("log")
    finish(processes.Process(target=docs_examples.write_files, args=(str(folder), str(log))), log, "files")
    return folder


@pytest.mark.parametrize("part", _PARTS)
def test_examples_run(part, processes, files, tmp_path):
    folder, log = tmp_path / "here", tmp_path / "log"
    folder.mkdir()
    chosen = [e for e in _EXAMPLES if e.part == part]
    arguments = (chosen, list(_NOT_RUN), str(files), str(folder), str(log))
    finish(processes.Process(target=docs_examples.run, args=arguments), log, part)


@pytest.mark.parametrize("text", ["assert image.ndim == 5", "print(never_made)", "ks.volumes.read_volume('no.nii')"])
def test_an_example_that_is_wrong_is_found(text, processes, tmp_path):
    log = tmp_path / "log"
    wrong = [docs_examples.Example("no.such.thing", text)]
    process = processes.Process(target=docs_examples.run, args=(wrong, [], str(tmp_path), str(tmp_path), str(log)))
    with pytest.raises(AssertionError, match=r"in the example of no\.such\.thing"):
        finish(process, log, text)


def test_only_what_exists_is_left_out():
    assert set(_NOT_RUN) <= {e.owner for e in _EXAMPLES}


# Public classes that a user meets, but does not make.
_RESULTS = {
    "keras_spatial.data": {"CaseClasses", "ClassPlaces", "Transform"},
    "keras_spatial.evaluation": {"CaseMetrics", "ClassMetrics", "Estimate", "LabelledCase", "LabelledSummary", "Lesion"}
    | {"LesionMatching", "MaskMetrics", "Stratum", "Summary", "SurfaceDistances"},
    "keras_spatial.inference": {"Outcome", "Segmentation", "Source", "Traffic"},
    "keras_spatial.planning": {"Plan", "Shards"},
    "keras_spatial.volumes": {"Series"},
}


@pytest.mark.parametrize("name", [f"keras_spatial.{m}".rstrip(".") for m in (*MODULES, "plot")])
def test_everything_that_a_user_calls_has_an_example(name):
    module = importlib.import_module(name)
    results = _RESULTS.get(name, set())
    missing, shown = [], set()
    for public_name in public(module):
        value = getattr(module, public_name)
        if not inspect.isfunction(value) and not inspect.isclass(value):
            continue  # A package, or a constant.
        if inspect.isclass(value) and issubclass(value, Exception):
            continue
        if "```python" in (inspect.getdoc(value) or ""):
            shown.add(public_name)
        elif public_name not in results:
            missing.append(public_name)
    assert not missing
    assert results <= set(public(module)) - shown
