"""The table of layers in the documentation is the one that the catalogue gives."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_layer_table_is_up_to_date():
    sys.path.insert(0, str(DOCS))
    import generate_layer_table

    page = (DOCS / "layers.md").read_text()
    assert page == generate_layer_table.updated(page), "Run: python docs/generate_layer_table.py"
