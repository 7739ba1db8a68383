"""Splits depend only on the case numbers; they are disjoint and complete, and a warning says so if they cannot be."""

import pytest

from datasets.splits import assign


def test_lits_is_divided_as_others_do():
    splits = assign(range(131))
    assert (splits.train, splits.validation, splits.test) == (
        tuple(range(101)), tuple(range(101, 116)), tuple(range(116, 131)),
    )  # fmt: skip


@pytest.mark.parametrize("rule", ["published", "fold-0-of-3", "fold-2-of-3", "fold-1-of-3-brief"])
@pytest.mark.parametrize("count", [3, 4, 7, 20, 130])
def test_every_case_is_in_one_split_and_no_split_is_empty(count, rule):
    numbers = [3 * n + 1 for n in range(count)]
    splits = assign(numbers[::-1], rule)
    assert sorted(splits.train + splits.validation + splits.test) == numbers
    assert all((splits.train, splits.validation, splits.test))
    assert splits.warnings == ()


def test_over_the_folds_every_case_is_tested_once():
    tested = [n for k in range(5) for n in assign(range(23), f"fold-{k}-of-5").test]
    assert sorted(tested) == list(range(23))


@pytest.mark.parametrize("count, shared", [(1, "training, validation and test"), (2, "validation and test")])
def test_too_few_cases_to_hold_out_are_shared_with_a_warning(count, shared):
    splits = assign(range(count))
    assert all((splits.train, splits.validation, splits.test))
    assert shared in splits.warnings[0]


@pytest.mark.parametrize(
    "numbers, rule, message",
    [
        ([], "published", "at least one"),
        ([1, 1], "published", "different"),
        ([1, 2, 3], "random", "'random'"),
        ([1, 2, 3], "fold-5-of-5", "K < N"),
        ([1, 2, 3], "fold-0-of-2", "N >= 3"),
        ([1, 2, 3], "fold-0-of-4", "3 cases, 4 folds"),
    ],
)
def test_what_cannot_be_divided_is_an_error(numbers, rule, message):
    with pytest.raises(ValueError, match=message):
        assign(numbers, rule)
