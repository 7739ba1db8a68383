"""Every network that a library exports is compared, or left out for a stated reason; the documentation says which."""

import sys
from pathlib import Path

import pytest

from ecosystem.libraries import LIBRARIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_exported_network_is_in_the_table_once(library):
    table = LIBRARIES[library]
    accounted = table.compared | set(table.reasons)
    assert table.exported - accounted == set(), "Compare these networks, or say in LEFT_OUT why not."
    assert accounted - table.exported == set(), "The library exports these networks no more."
    assert table.compared & set(table.reasons) == set(), "These are compared: take them out of LEFT_OUT."
    names = [name for names in table.left_out.values() for name in names.split()]
    assert len(names) == len(set(names))


def test_continuous_integration_compares_at_least_20_networks():
    quick = [n for table in LIBRARIES.values() for n in table.networks.values() if n.quick]
    assert len(quick) >= 20


def test_page_of_the_documentation_is_up_to_date():
    sys.path.insert(0, str(ROOT / "docs"))
    import generate_ecosystem

    assert generate_ecosystem.PAGE.read_text() == generate_ecosystem.page(), "Run: python docs/generate_ecosystem.py"
