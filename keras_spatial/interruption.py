"""Let Ctrl-C end a command with one sentence even in its first seconds, while it only imports modules."""

import sys
from types import TracebackType

STATUS = 130
"""The exit status of a command that Ctrl-C has ended: 128 + SIGINT."""


def end_with_a_sentence(package: str) -> None:
    """Let Ctrl-C end `python -m <package>`, or a module of it, with a sentence and status 130.

    Python imports a package before the code of its command runs, so the command itself comes too late. Nothing changes
    for programs that import the package.

    Args:
        package: the name of the package, such as "pipelines".
    """
    # `sys.argv[0]` is "-m" while Python looks for the module.
    if sys.argv[:1] == ["-m"] and any(part.removeprefix("-m").split(".")[0] == package for part in sys.orig_argv[1:]):
        sys.excepthook = _say


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print("Interrupted.", file=sys.stderr, flush=True)
    raise SystemExit(STATUS)
