"""Show the output of a run on the terminal, and write it into a log.

Each step leaves one line, with its time and its result. While a step runs, a terminal shows one line that changes in
place, with the time left if the step reports its progress. Without a terminal, plain lines show the progress now and
then. The log keeps every line, without colour codes.
"""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from components import console
from components.console import Line

_ERROR = re.compile(r"^\s*([A-Za-z_][\w.]*(?:Error|Exception|UnsupportedLayer|Exhausted)): ")
_BEGINS = re.compile(r"Executing task '(?P<step>[^']+)'")
_ENDS = re.compile(r"Task '(?P<step>[^']+)' finished with status (?P<status>\w+)")
_REMEMBERED = 2000
_WIDTH = 18
# The seconds between lines that show the progress of a step without a terminal.
_SECONDS_BETWEEN_LINES = 30.0


class Screen:
    """Shows the lines of a run's log to a person.

    Args:
        stream: the standard output.
        verbose: whether every line is shown.
    """

    def __init__(self, stream: TextIO, *, verbose: bool = False):
        self._console = Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._verbose = verbose
        self._live = self._console.is_terminal and not verbose
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, min_width=_WIDTH - 4)),
            BarColumn(bar_width=12, table_column=Column(min_width=12)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            # If the line is too long for the terminal, only this column is cut.
            TextColumn("{task.fields[said]}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            expand=True,
            console=self._console,
            transient=True,
            disable=not self._live,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: TaskID | None = None
        self._step, self._result = "", ""
        self._started = self._told = 0.0

    def show(self, text: str) -> None:
        """Show a line if it is meant for a person."""
        if self._verbose:
            self._print(text)
        begins, ends = _BEGINS.search(text), _ENDS.search(text)
        if begins:
            self._begin(begins["step"])
        elif ends:
            self._end(ends["step"], failed=ends["status"] != "SUCCESS")
        elif text.strip().startswith("[launch] ") and not text.strip().startswith("[launch]  "):
            self._note(text.strip())
        elif (line := console.parse(text)) is not None:
            self._follow(line)

    def close(self) -> None:
        """Remove the line of a step that has not ended."""
        self._progress.stop()

    def _begin(self, step: str) -> None:
        self._step, self._result = step, ""
        self._started = self._told = time.monotonic()
        self._task = self._progress.add_task(step, total=None, said="")
        self._progress.start()

    def _end(self, step: str, *, failed: bool) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        self._progress.stop()
        took = console.readable(time.monotonic() - self._started)
        self._print(f"{step:<{_WIDTH}}{took:>7}  {'FAILED' if failed else self._result}".rstrip())

    def _follow(self, line: Line) -> None:
        if line.kind == "result":
            self._result = line.text
        elif line.kind == "note":
            self._note(f"{line.step}: {line.text}")
        elif line.kind == "progress" and self._task is not None:
            self._progress.update(self._task, completed=line.done, total=line.total)
            left = None if " left" in line.text else self._progress.tasks[-1].time_remaining
            said = line.text if not left else f"{line.text}, about {console.readable(left)} left"
            self._progress.update(self._task, said=said)
            if line.done == line.total:
                # The result comes next.
                return
            if not self._live and time.monotonic() - self._told >= _SECONDS_BETWEEN_LINES:
                self._told = time.monotonic()
                self._note(f"{line.step}: {said}")

    def _note(self, text: str) -> None:
        if not self._verbose:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text)


class Tee:
    """A standard output that writes every line to a file and to the screen, and remembers the last lines."""

    def __init__(self, screen: Screen, file: TextIO):
        self._screen, self._file = screen, file
        self._lines: list[str] = [""]

    def write(self, text: str) -> int:
        first, *rest = text.split("\n")
        self._lines[-1] += first
        self._lines += rest
        for number in range(len(self._lines) - len(rest) - 1, len(self._lines) - 1):
            self._lines[number] = line = console.visible(click.unstyle(self._lines[number]).rstrip("\r"))
            self._file.write(line + "\n")
            self._screen.show(line)
        self._file.flush()
        del self._lines[:-_REMEMBERED]
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

    def close_line(self) -> None:
        """End the last line if it is incomplete, so that it is written."""
        if self._lines[-1]:
            self.write("\n")

    def error(self) -> str:
        """The last error that the failed step has printed, with its further lines, or else the step's last lines."""
        lines = self._of_failed_step()
        starts = [i for i, line in enumerate(lines) if _ERROR.match(line)]
        if not starts:
            return "\n".join(line.strip() for line in lines[-15:] if line.strip())
        found = []
        for line in lines[starts[-1] : starts[-1] + 40]:
            if not line.strip():
                break
            found.append(line.strip())
        return "\n".join(found)

    def _of_failed_step(self) -> list[str]:
        """The lines of the first step that failed; after it only the exit handler runs."""
        found = [(i, _ENDS.search(line)) for i, line in enumerate(self._lines)]
        ends = [i for i, match in found if match and match["status"] == "FAILURE"]
        end = ends[0] if ends else len(self._lines)
        begins = [i for i, line in enumerate(self._lines[:end]) if _BEGINS.search(line)]
        return self._lines[begins[-1] + 1 if begins else 0 : end]


@contextmanager
def logged(path: Path, *, verbose: bool = False) -> Iterator[Tee]:
    """Send the standard output to a log and, if it is meant for a person, to the screen inside a `with` block.

    Args:
        path: the path of the log, to which lines are appended.
        verbose: whether the screen shows everything that the log gets.
    """
    with path.open("a", encoding="utf-8") as file:
        stdout = sys.stdout
        screen = Screen(stdout, verbose=verbose)
        tee = Tee(screen, file)
        sys.stdout = tee  # type: ignore[assignment]
        try:
            yield tee
        finally:
            sys.stdout = stdout
            tee.close_line()
            screen.close()
