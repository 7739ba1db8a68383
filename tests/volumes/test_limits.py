"""Limits come from arguments or the environment, and errors in them are named."""

import json

import pytest

from keras_spatial.volumes import Limits


def test_the_environment_sets_what_it_names(monkeypatch):
    monkeypatch.setenv("KERAS_SPATIAL_LIMITS", "voxels=4e9; spacing=0.0001:1; hounsfield=no; extent=50;")
    assert Limits.current() == Limits(voxels=4_000_000_000, spacing=(0.0001, 1.0), hounsfield=False, extent=50.0)
    monkeypatch.delenv("KERAS_SPATIAL_LIMITS")
    assert Limits.current() == Limits()


@pytest.mark.parametrize(
    "text",
    ["voxel=1", "voxels", "voxels=many", "voxels=inf", "voxels=-1", "spacing=1", "spacing=2:1", "spacing=nan:1",
     "hounsfield=perhaps", "extent=0", "extent=nan", "=", "voxels=1=2"],
)  # fmt: skip
def test_what_is_no_limit_is_named(text):
    with pytest.raises(ValueError, match=r"(KERAS_SPATIAL_LIMITS|limits): .*Received"):
        Limits.parse(text)


@pytest.mark.parametrize(
    "other, covered",
    [
        ({}, True),
        ({"voxels": 1 << 20}, True),
        ({"voxels": 1 << 31}, False),
        ({"spacing": (0.1, 10)}, True),
        ({"spacing": (0.001, 10)}, False),
        ({"spacing": (0.1, 1000)}, False),
        ({"hounsfield": False}, False),
    ],
    ids=str,
)
def test_limits_cover_others_that_accept_no_more(other, covered):
    assert Limits().covers(Limits(**other)) == covered
    assert Limits.of(json.loads(json.dumps(Limits(**other).as_dict()))) == Limits(**other)
