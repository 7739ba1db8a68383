"""Every loss and metric of Keras, on images and on vectors, with and without sample weights."""

import functools

import pytest
from conformance.checks import MESHES, PRECISION, Setting, all_cases, assert_close, cases
from conformance.table.objectives import LOSSES, METRICS, Objective
from conformance.table.statuses import Equal, Refused
from conformance.training import assert_loss_equal, metric_values, pair


@pytest.mark.parametrize("case, setting", cases(LOSSES, Equal))
def test_loss_equals_keras(case, setting):
    assert_loss_equal(case, setting)


REFUSED = [
    pytest.param(name, refused, id=f"{name}-{key}")
    for table in (LOSSES, METRICS)
    for name, entry in table.items()
    for key, refused in ({"": entry} if isinstance(entry, Refused) else getattr(entry, "refused", {})).items()
]


@pytest.mark.parametrize("name, refused", REFUSED)
def test_what_is_no_sum_of_voxels_is_refused_by_name_when_the_model_is_compiled(name, refused):
    setting = Setting("2x2", "float32", MESHES[2]["2x2"])
    with pytest.raises(ValueError, match=rf"(?i){name}.*{refused.says}|{refused.says}.*{name}"):
        pair(refused.case, setting, loss=refused.case.make)


CASES = all_cases(METRICS, Equal)


def _kind(case: Objective) -> tuple:
    return case.head, case.labels, case.vector, case.weights, case.dtypes


def _settings(case: Objective) -> list[tuple[str, str]]:
    """Metrics of images run in float64 on one mesh; those of vectors or without float64 in float32 on another."""
    return [("batch-y", "float32")] if case.vector or "float64" not in case.dtypes else [("2x2", "float64")]


@functools.cache
def together(kind: tuple, mesh: str, dtype: str) -> dict[str, tuple]:
    """The values of all metrics that suit the same model, in Keras and on the mesh, computed with one pair of models.

    If they fail together, there are no values, and each metric is tried separately.
    """
    chosen = [(f"{name}-{key}", case) for name, key, case in CASES if _kind(case) == kind]
    setting = Setting(mesh, dtype, MESHES[2][mesh])
    try:
        values = [metric_values([case for _, case in chosen], setting, partitioned) for partitioned in (True, False)]
    except Exception:
        return {}
    return dict(zip((name for name, _ in chosen), zip(*values, strict=True), strict=True))


@pytest.mark.parametrize(
    "name, mesh, dtype",
    [(f"{name}-{key}", mesh, dtype) for name, key, case in CASES for mesh, dtype in _settings(case)],
)
def test_metric_equals_keras(name, mesh, dtype):
    case = next(case for n, key, case in CASES if f"{n}-{key}" == name)
    setting = Setting(mesh, dtype, MESHES[2][mesh])
    found = together(_kind(case), mesh, dtype).get(name)
    if found is not None:
        actual, expected = found
    else:
        actual, expected = (metric_values([case], setting, partitioned)[0] for partitioned in (True, False))
    for what, a, e in zip(("value", "weighted value"), actual, expected, strict=True):
        assert_close(a, e, PRECISION[dtype][0], what)
