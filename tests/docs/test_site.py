"""The documentation: it builds without warnings, its generated pages are fresh, and its code fits the page."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

import generate_benchmarks  # noqa: E402
import generate_errors  # noqa: E402
import whole_words  # noqa: E402
from docs_pages import snippets  # noqa: E402

# What fits into the column for text in a window of 1300 px, with docs/stylesheets/extra.css.
_COLUMNS = 92


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site, and how building it ended."""
    folder = tmp_path_factory.mktemp("site")
    # Not with --quiet, which would keep warnings from being counted.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    return folder, subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_it_builds_without_warnings(site):
    folder, done = site
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "api" / "core" / "index.html").is_file()
    assert not list(folder.rglob("*.part*"))
    home = (folder / "index.html").read_text(encoding="utf-8")
    assert (folder / "stylesheets" / "extra.css").is_file()
    assert "stylesheets/extra.css" in home


def test_no_page_asks_another_server_for_anything(site):
    folder, _ = site
    assert (folder / "index.html").is_file()
    source, style = r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)', r'rel="stylesheet"[^>]+href="(https?:[^"]+)'
    loaded = re.compile(f"{source}|{style}")
    for page in folder.rglob("*.html"):
        assert not loaded.findall(page.read_text(encoding="utf-8")), page


@pytest.mark.parametrize("generator", [generate_errors, generate_benchmarks])
def test_generated_pages_are_fresh(generator):
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), f"run python docs/{generator.__name__}.py"


def test_every_message_is_found_by_its_words():
    assert "A layout may use each mesh axis only once." in generate_errors.PAGE.read_text(encoding="utf-8")


def test_every_message_stands_in_a_section_of_its_own_subject():
    for package in generate_errors.PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert generate_errors.section(path.relative_to(ROOT).with_suffix("").as_posix())
    assert generate_errors.section("keras_spatial/volumes/dicom") == "DICOM"
    assert generate_errors.section("keras_spatial/volumes/volume") == "Reading and writing volumes"


def test_settings_of_benchmarks_are_words():
    assert generate_benchmarks.setting("size_2d", [512, 512]) == "size 2d 512x512"
    assert generate_benchmarks.setting("meshes", [[2, 2], [4, 4]]) == "meshes 2x2, 4x4"
    assert generate_benchmarks.setting("seed", 0) == "seed 0"
    assert not generate_benchmarks.setting("quick", False)
    assert "[" not in re.sub(r"\[\w+\]\(#\w+\)", "", generate_benchmarks.page())


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_code_is_not_cut_at_the_edge_of_the_page(page):
    for snippet in snippets(page.read_text(encoding="utf-8")):
        if snippet.language == "text":  # What is printed is wrapped.
            continue
        for number, line in enumerate(snippet.text.splitlines(), snippet.line):
            assert len(line) <= _COLUMNS, f"{page.name}:{number}: {len(line)} characters"


def test_what_is_printed_is_wrapped(site):
    folder, _ = site
    home = (folder / "index.html").read_text(encoding="utf-8")
    style = (folder / "stylesheets" / "extra.css").read_text(encoding="utf-8")
    assert '<div class="language-text highlight">' in home
    assert ".language-text pre > code { white-space: pre-wrap;" in style


def test_examples_in_docstrings_are_not_cut_either():
    for path in sorted((ROOT / "keras_spatial").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for snippet in snippets(ast.get_docstring(node) or ""):
                    longest = max(map(len, snippet.text.splitlines()))
                    assert longest <= _COLUMNS, f"{path}: {getattr(node, 'name', '')}: {longest} characters"


def test_short_code_is_not_broken_at_its_hyphens():
    assert whole_words.on_page_content("<code>--help</code>") == '<code class="word">--help</code>'
    for other in ("<code>a - b</code>", "<code>plain</code>", '<pre><code class="x">--help</code></pre>'):
        assert whole_words.on_page_content(other) == other


def test_the_home_page_says_what_to_install_and_where_the_code_is():
    home = (DOCS / "index.md").read_text(encoding="utf-8")
    assert "pip install" in home
    assert "```python" in home
    assert "](https://github.com/keras-spatial/keras-spatial)" in home
