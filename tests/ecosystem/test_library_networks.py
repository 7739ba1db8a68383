"""Networks of other libraries have the same outputs, float64 gradients and state on a mesh as in plain Keras."""

import keras
import pytest

from ecosystem.agreement import assert_equal_to_keras
from ecosystem.libraries import LIBRARIES

CASES = [(library, case) for library, table in LIBRARIES.items() for case in table.networks]


@pytest.fixture(autouse=True)
def _forget_models():
    yield
    keras.backend.clear_session()


@pytest.mark.parametrize(("library", "case"), CASES, ids=[" ".join(pair) for pair in CASES])
def test_network_equals_keras(library, case, request):
    network = LIBRARIES[library].networks[case]
    if not (network.quick or request.config.getoption("--all-networks", default=False)):
        pytest.skip("takes long: pytest tests/ecosystem --all-networks")
    assert_equal_to_keras(network)
