"""The pages of the project, and the snippets on them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SKIPPED = {"site", "runs", "dist", "build", "node_modules"}
_FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```", flags=re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- *(?P<kind>not run|printed)\b:? *(?P<words>(?:(?!-->).)*)-->\s*\Z", flags=re.DOTALL)


@dataclass(frozen=True)
class Snippet:
    """A block of code between lines of three backticks.

    Attributes:
        language: the word behind the first three backticks.
        text: what is between, without its indentation.
        line: of its first line in the page, from 1.
        not_run: why it cannot be run here, from a comment `<!-- not run: ... -->` before it.
        printed: whether a comment `<!-- printed -->` before it says that the previous snippet prints this.
    """

    language: str
    text: str
    line: int
    not_run: str = ""
    printed: bool = False


def pages() -> list[Path]:
    """Every Markdown file of the project."""
    found = [p.relative_to(ROOT) for p in ROOT.rglob("*.md")]
    return sorted(p for p in found if not any(part in _SKIPPED or part.startswith(".") for part in p.parts[:-1]))


def snippets(page: str) -> list[Snippet]:
    """The snippets of a page's text, from top to bottom."""
    found = []
    for match in _FENCE.finditer(page):
        indent, language, text = match.groups()
        lines = (line.removeprefix(indent) for line in text.splitlines(keepends=True))
        comment = _COMMENT.search(page[: match.start()])
        kind, words = (comment["kind"], " ".join(comment["words"].split())) if comment else ("", "")
        line = page.count("\n", 0, match.start(3)) + 1
        not_run = words if kind == "not run" else ""
        found.append(Snippet(language, "".join(lines), line, not_run, printed=kind == "printed"))
    return found


def files_needed(page: str) -> str:
    """The program in a comment `<!-- files ... -->`, which writes the files that a page's snippets read."""
    found = re.search(r"<!-- files\n(.*?)-->", page, flags=re.DOTALL)
    return found[1] if found else ""
