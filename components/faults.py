"""Messages about refused values, which are named and shortened so that a person can read them."""

import reprlib
from typing import Any

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 200


def shortened(value: Any) -> str:
    """A value for a message, shortened to a few of its parts."""
    return cut(_repr.repr(value))


def cut(text: str) -> str:
    """A text for a message, shortened to 300 characters."""
    return text if len(text) <= 300 else f"{text[:300]}…"


def faults(errors: list[Any]) -> list[str]:
    """A line for each error of pydantic, which names the setting, what was expected, and the shortened value."""
    lines = []
    for fault in errors:
        name = ".".join(str(part)[:100] for part in fault["loc"])
        # Errors about several settings have no name, and their message has the settings and values.
        text = cut(fault["msg"].removeprefix("Value error, "))
        lines.append(f"{name}: {text}. Received: {shortened(fault['input'])}" if name else text)
    return lines
