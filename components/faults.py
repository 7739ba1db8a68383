"""How values that were refused show in a message: named, and never longer than a person reads."""

import reprlib
from typing import Any

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 200


def shortened(value: Any) -> str:
    """How a value shows in a message: a few of its parts, whatever its size."""
    return cut(_repr.repr(value))


def cut(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:300]}…"


def faults(errors: list[Any]) -> list[str]:
    """The lines that name what pydantic found wrong, without values that fill the screen."""
    lines = []
    for fault in errors:
        name = ".".join(str(part)[:100] for part in fault["loc"])
        # Faults of the whole value name their setting in the message, and the value.
        text = cut(fault["msg"].removeprefix("Value error, "))
        lines.append(f"{name}: {text}. Received: {shortened(fault['input'])}" if name else text)
    return lines
