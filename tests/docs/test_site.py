"""The documentation: it builds without warnings, its generated pages are fresh, and its programs run."""

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

# Pages whose Python blocks are one program, run here; other blocks must at least be Python.
PROGRAMS = (
    "getting_started.md",
    "guides/partition.md",
    "guides/gpus.md",
    "guides/custom_layers.md",
    "guides/offload.md",
)


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_it_builds_without_warnings(tmp_path):
    # Not with --quiet, which would keep warnings from being counted.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "api" / "core" / "index.html").is_file()


def test_no_page_asks_another_server_for_anything(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    source, style = r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)', r'rel="stylesheet"[^>]+href="(https?:[^"]+)'
    loaded = re.compile(f"{source}|{style}")
    for page in tmp_path.rglob("*.html"):
        assert not loaded.findall(page.read_text(encoding="utf-8")), page


@pytest.mark.parametrize("generator", [generate_errors, generate_benchmarks])
def test_generated_pages_are_fresh(generator):
    assert generator.PAGE.read_text(encoding="utf-8") == generator.page(), f"run python docs/{generator.__name__}.py"


def test_every_message_is_found_by_its_words():
    assert "A layout may use each mesh axis only once." in generate_errors.PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_runs(name):
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks(DOCS / name))], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_python_blocks_are_python(page):
    for block in blocks(page):
        compile(block, page.name, "exec")
