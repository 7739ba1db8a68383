"""The tables in the documentation agree with the conformance table."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("page", ["layers.md", "conformance.md"])
def test_tables_are_up_to_date(page):
    sys.path.insert(0, str(DOCS))
    import generate_layer_table

    text = (DOCS / page).read_text()
    assert text == generate_layer_table.updated(text), "Run: python docs/generate_layer_table.py"
    assert "| equal |" in text
