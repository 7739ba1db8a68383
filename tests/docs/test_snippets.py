"""Every Python snippet of every page runs as printed, and prints what the page says that it prints."""

import multiprocessing
from pathlib import Path

import docs_run
import pytest
from docs_pages import ROOT, pages, snippets

_SECONDS = 300
_PYTHON = [p for p in pages() if any(s.language == "python" for s in snippets((ROOT / p).read_text(encoding="utf-8")))]


@pytest.fixture(scope="module")
def processes():
    """A process for each page. Their parent has imported the package, which takes longer than most pages."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["docs_run", "keras_spatial", "keras_spatial.data", "keras_spatial.inference"])
    return context


@pytest.mark.parametrize("page", _PYTHON, ids=str)
def test_page_runs_as_printed(page, processes, tmp_path):
    folder, log = tmp_path / "here", tmp_path / "log"
    folder.mkdir()
    process = processes.Process(target=docs_run.run, args=(str(ROOT / page), str(folder), str(log)))
    process.start()
    process.join(_SECONDS)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, f"{page}:\n{Path(log).read_text(encoding='utf-8')[-3000:]}"


@pytest.mark.parametrize(
    ("snippet", "fault"),
    [
        ("ks.no_such_name(1)", AttributeError),
        ("import no_such_module", ImportError),
        ("print(never_made)", NameError),
        ("ks.device_mesh('rows:2', no_such_argument=1)", TypeError),
    ],
)
def test_a_snippet_that_is_not_run_is_still_checked(snippet, fault):
    import ast

    import keras_spatial as ks

    with pytest.raises(fault):
        docs_run.check(ast.parse(snippet), {"ks": ks})


def test_what_is_not_run_says_why():
    for page in pages():
        for snippet in snippets((ROOT / page).read_text(encoding="utf-8")):
            assert not snippet.not_run or len(snippet.not_run) > 10, f"{page}:{snippet.line}"
