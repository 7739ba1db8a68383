"""Every layer, activation and operation of Keras: partitioned with equal results, or refused by name."""

import re

import pytest
from conformance.checks import MESHES, all_cases, assert_case_equal, cases, images, results
from conformance.table.activations import ACTIVATIONS
from conformance.table.layers import LAYERS
from conformance.table.operations import OPERATIONS
from conformance.table.statuses import Equal, NotConcerned, Refused, Replicated

import keras_spatial as ks

TABLES = {"layers": LAYERS, "activations": ACTIVATIONS, "operations": OPERATIONS}
REFUSED = [
    pytest.param(name, case, "", id=f"{name}-{key}".replace(" ", "-"))
    for table in TABLES.values()
    for name, key, case in all_cases(table, Replicated)
] + [
    pytest.param(name, refused.case, refused.says, id=f"{name}-{key}")
    for table in TABLES.values()
    for name, entry in table.items()
    for key, refused in getattr(entry, "refused", {}).items()
]
REFUSED += [
    pytest.param(name, entry.case, entry.says, id=name)
    for name, entry in OPERATIONS.items()
    if isinstance(entry, Refused)
]
FAILING = [
    pytest.param(entry.fails, id=name)
    for name, entry in (LAYERS | OPERATIONS).items()
    if isinstance(entry, NotConcerned) and entry.fails is not None
]


@pytest.mark.parametrize("case, setting", cases(LAYERS, Equal))
def test_layer_equals_keras(case, setting):
    assert_case_equal(case, setting)


@pytest.mark.parametrize("case, setting", cases(ACTIVATIONS, Equal))
def test_activation_equals_keras(case, setting):
    assert_case_equal(case, setting)


@pytest.mark.parametrize("case, setting", cases(OPERATIONS, Equal, often=False))
def test_operation_equals_keras(case, setting):
    assert_case_equal(case, setting)


@pytest.mark.parametrize("case, setting", cases(LAYERS, Replicated) + cases(OPERATIONS, Replicated))
def test_replicated_equals_keras(case, setting):
    assert_case_equal(case, setting, unsupported="replicate")


@pytest.mark.parametrize("name, case, says", REFUSED)
def test_what_has_no_rule_is_refused_by_name_when_the_model_is_partitioned(name, case, says):
    model = case.model()
    distribution = next(iter(MESHES[len(case.shape) - 1].values()))
    with pytest.raises(ValueError, match=says) as raised:
        ks.partition(model, distribution)
    operations = {type(operation).__name__ for operation in model._flatten_layers()}
    operations |= {type(operation).__name__ for operation in model.operations}
    named = [cls for cls in operations if re.search(rf"\b{cls}\b", str(raised.value))]
    assert named, f"The error names no layer of {operations}: {raised.value}"


@pytest.mark.parametrize("case", FAILING)
def test_what_keras_cannot_do_on_tensorflow_still_fails_there(case):
    with pytest.raises(Exception):  # noqa: B017  Whatever Keras raises: that it works would be news.
        results(model := case.model(), images(model), training=False)
