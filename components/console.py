"""The lines that a step prints.

The log has all of them. On the terminal, `pipelines.console` shows notes, the latest progress while a step runs, and in
the end one line for the step, with its result. Details are only in the log. This module defines how each kind of line
is written, and parses it again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from components import pure

_LINE = re.compile(r"(?:\[\d+\] )?(?P<step>[a-z_]+): (?P<text>\S.*)")
_PROGRESS = re.compile(r"(?:epoch )?(?P<done>\d+)/(?P<total>\d+)(?:[ ,]|$)")
_STARTED, _FINISHED, _RESULT = "started", "finished in ", "result: "
# KFP prints the outputs of a step in this form.
_ARTIFACT = re.compile(r"\w+\( name=")


@dataclass(frozen=True)
class Line:
    """A line of a step.

    Attributes:
        step: the name of the step.
        kind: "note", "progress", "result", or "frame" for the first and the last line of a step.
        text: the text, without the marks of its kind.
        done: how many parts of the step's work are done, for progress; otherwise 0.
        total: how many parts there are, for progress; otherwise 0.
    """

    step: str
    kind: str
    text: str
    done: int = 0
    total: int = 0


def visible(text: object) -> str:
    """A text from elsewhere for a terminal or a log, as `keras_spatial._texts` makes it visible."""
    return pure.load("_texts").visible(text)


def say(text: object) -> None:
    """Print a text from elsewhere that is no line of a step, or contains the name of its step."""
    print(visible(text), flush=True)


def note(step: str, text: str) -> None:
    """Print what a person should see at once; if `text` has several lines, those after the first are details."""
    _print(step, "", text)


def detail(step: str, text: str) -> None:
    """Print something that only matters to a reader of the log; `text` may have several lines."""
    for line in visible(text).splitlines():
        print(f"{step}:   {line}", flush=True)


def progress(step: str, done: int, total: int, text: str = "", unit: str = "") -> None:
    """Print how far a step is: `done` of `total` parts, which are called `unit`, either "epoch" or nothing."""
    _print(step, f"{unit}{' ' if unit else ''}{done}/{total} ", text)


def result(step: str, text: str) -> None:
    """Print in one sentence what a step has made. The terminal shows it on the step's line, after its time."""
    _print(step, _RESULT, text)


def _print(step: str, mark: str, text: str) -> None:
    """Print a line of a step. A name that contains a new line cannot add another one that looks like a step's own."""
    first, _, rest = visible(text).partition("\n")
    print(f"{step}: {mark}{first}".rstrip(), flush=True)
    detail(step, rest)


def started(step: str) -> None:
    """Print that a step begins its work."""
    print(f"{step}: {_STARTED}", flush=True)


def finished(step: str, seconds: float) -> None:
    """Print that a step has done its work."""
    print(f"{step}: {_FINISHED}{readable(seconds)}", flush=True)


def parse(text: str) -> Line | None:
    """Parse a line of a step; None for a detail, and for a line that this module has not written."""
    found = _LINE.fullmatch(text.strip())
    if found is None or _ARTIFACT.match(found["text"]):
        return None
    step, said = found["step"], found["text"]
    if said == _STARTED or said.startswith(_FINISHED):
        return Line(step, "frame", said)
    if said.startswith(_RESULT):
        return Line(step, "result", said.removeprefix(_RESULT))
    counted = _PROGRESS.match(said)
    if counted:
        return Line(step, "progress", said, int(counted["done"]), int(counted["total"]))
    return Line(step, "note", said)


def readable(seconds: float) -> str:
    """A time such as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def figure(value: float) -> str:
    """A number as text with four significant digits."""
    return f"{value:.4g}"


def figures(values: Mapping[str, float]) -> str:
    """Numbers by name, such as `liver 0.9123, lesion 0.4567`."""
    return ", ".join(f"{name} {figure(value)}" for name, value in values.items())


def count(number: int, noun: str) -> str:
    """A number with its noun, such as `1 case` or `3 cases`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
