"""A text from elsewhere neither controls a terminal, nor changes the order of what is around it, nor ends a line."""

import unicodedata

import pytest

from keras_spatial._texts import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\rb", r"a\rb"),
        ("a\x85b", r"a\x85b"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("scan-\u202egpj.exe", r"scan-\u202egpj.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("\u200ea\u200fb\u061c", r"\u200ea\u200fb\u061c"),
        ("a\u200bb\ufeff\xad", r"a\u200bb\ufeff\xad"),
        ("\U000e0041", r"\U000e0041"),
        ("\udcff", r"\udcff"),
    ],
)
def test_what_is_obeyed_or_hidden_is_shown_as_an_escape(text, shown):
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "a\n\tb",
        "Übergangszone",
        "前立腺",
        "הערמונית",
        "البروستاتا",
        "می\u200cخواهم",
        "क्\u200dष",
        "5\xa0mm",
        "全\u3000体",
        "🫁",
    ],
)
def test_words_of_any_script_are_shown_as_they_are(text):
    assert visible(text) == text


def test_no_character_has_a_direction_of_its_own_without_a_letter():
    directions = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI", "B"}
    every = [chr(number) for number in range(0x110000)]
    left = [c for c in every if visible(c) == c and unicodedata.bidirectional(c) in directions]
    assert left == ["\n"]
