"""Memory sizes as people write and read them."""

import re

_UNITS = ("B", "kB", "MB", "GB", "TB")
_FACTORS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def readable(size: float) -> str:
    """A number of bytes with a unit, such as `12.3 GB`.

    Example:

    ```python
    assert ks.planning.readable(12.3e9) == "12.3 GB"
    ```
    """
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            return f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError


def parse_size(size: int | str, argument: str = "memory") -> int:
    """Parse a size in bytes: a number, or a text such as `16GB` (10⁹ bytes each) or `16GiB` (2³⁰ each).

    Args:
        size: the number or the text.
        argument: the name of the argument, for the message.

    Raises:
        ValueError: if it is anything else, or not positive.

    Example:

    ```python
    assert ks.planning.parse_size("16GiB") == 16 * 2**30
    ```
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*(?:([kKMGT]?)(i?)B)?\s*", str(size))
    value = 0
    if found:
        number, unit, binary = found.groups()
        value = int(float(number) * (1024 if binary else 1000) ** _FACTORS[(unit or "").upper()])
    if value <= 0:
        raise ValueError(f"{argument}: expected bytes, as a number or as a text such as '16GB'. Received: {size!r}")
    return value
