"""The option that runs every network, not only those of continuous integration."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-networks", action="store_true", help="also compare the networks that take long")
