"""Texts from elsewhere, such as the names of files or the answers of servers, in a form that may be printed.

It imports only the standard library, because `components.pure` loads this file without its package.
"""

import unicodedata

# They join letters or keep them apart in words of Persian, Hindi and other languages.
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def is_visible(character: str) -> bool:
    """Whether a character is shown as itself and changes nothing around it.

    Control characters are obeyed by a terminal. Others, such as those for the direction of writing, change the order of
    the characters around them, end the line, or show nothing at all, so that two texts look alike. `repr` escapes all
    of these as well, and besides them all spaces but one.
    """
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"


def visible(text: object) -> str:
    """A text for a terminal or a log, with escapes for all characters that are not visible except new lines and
    tabs.
    """
    return "".join(c if is_visible(c) or c in "\n\t" else ascii(c)[1:-1] for c in str(text))
