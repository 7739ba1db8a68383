"""Assign cases to splits by published rules, which depend only on the cases' numbers or names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

# The 131 training cases of LiTS: the first 101 for training, then 15 for validation, the last 15 for the test, as in
# KiU-Net (Valanarasu et al., arXiv 2010.01663) and kaiko-eva.
PUBLISHED = "published"
_TRAIN, _VALIDATION, _TEST = 101, 15, 15
_FOLD = re.compile(r"fold-([0-9]{1,6})-of-([0-9]{1,6})(-brief)?")
# With "-brief", every 20th case outside the test fold is for validation.
_BRIEF = 20


Key = TypeVar("Key", int, str)


@dataclass(frozen=True)
class Splits(Generic[Key]):
    """The case numbers or names of each split in increasing order, and warnings for the user."""

    train: tuple[Key, ...]
    validation: tuple[Key, ...]
    test: tuple[Key, ...]
    warnings: tuple[str, ...] = ()

    def items(self) -> tuple[tuple[str, tuple[Key, ...]], ...]:
        return ("train", self.train), ("validation", self.validation), ("test", self.test)


def check_rule(rule: str) -> None:
    """Check that a rule is "published", or "fold-K-of-N[-brief]" with K < N and N at least 3.

    Raises:
        ValueError: if it is not.
    """
    match = _FOLD.fullmatch(rule)
    if rule != PUBLISHED and not (match and int(match[1]) < int(match[2]) and int(match[2]) >= 3):
        raise ValueError(
            'split: expected "published", "fold-K-of-N" or "fold-K-of-N-brief" with K < N and N >= 3. '
            f"Received: {rule!r}"
        )


def assign(numbers: Sequence[Key], rule: str = PUBLISHED) -> Splits[Key]:
    """Divide cases into train, validation and test.

    | rule | splits |
    | --- | --- |
    | "published" | The first 101 of 131 cases by their numbers for training, the next 15 for validation and the last 15 for the test. With another number of cases, at least 3, these are rounded shares, with at least one case in each split. |
    | "fold-K-of-N" | The cases, in the order of their numbers, are assigned to N folds in turn. Fold K is the test, fold K + 1 the validation, and the rest the training. |
    | "fold-K-of-N-brief" | The same test, but only every 20th of the other cases, at least one, is for validation. It suits a training that keeps its last weights, whose validation only shows its course. |

    One or two cases cannot be held out. So that the pipeline can still be tried with a single CT, a single case is used
    in all three splits; of two cases, one is for training and the other for validation and test. `warnings` then says
    that the scores do not estimate the performance on unseen patients.

    Args:
        numbers: the numbers or the names of the cases.
        rule: one of the three rules above.

    Raises:
        ValueError: if there are no cases, a number occurs twice, the rule is unknown, or there are more folds than
            cases.
    """  # noqa: E501 - a table.
    check_rule(rule)
    order = sorted(numbers)
    if not order or len(set(order)) != len(order):
        raise ValueError(f"numbers: expected different case numbers, at least one. Received: {list(numbers)}")
    match = _FOLD.fullmatch(rule)
    if match:
        return _fold(order, int(match[1]), int(match[2]), brief=match[3] is not None)
    count = len(order)
    if count == 1:
        only = tuple(order)
        return Splits(only, only, only, (
            f"Case {order[0]} is used for training, validation and test, because there is no other: the scores show "
            "that the pipeline runs, not how well the model segments unseen patients.",
        ))  # fmt: skip
    if count == 2:
        return Splits((order[0],), (order[1],), (order[1],), (
            f"Case {order[1]} is used for validation and test, because there are only two cases: the test score is "
            "biased, because the validation score chose the model.",
        ))  # fmt: skip
    total = _TRAIN + _VALIDATION + _TEST
    test = max(1, round(count * _TEST / total))
    validation = max(1, round(count * _VALIDATION / total))
    first, second = count - test - validation, count - test
    return Splits(tuple(order[:first]), tuple(order[first:second]), tuple(order[second:]))


def _fold(order: list[Key], fold: int, folds: int, *, brief: bool) -> Splits[Key]:
    if len(order) < folds:
        raise ValueError(f"split: expected a case for every fold. Received: {len(order)} cases, {folds} folds")
    hands = [tuple(order[i::folds]) for i in range(folds)]
    rest = [key for key in order if key not in set(hands[fold])]
    validation = tuple(rest[::_BRIEF]) if brief else hands[(fold + 1) % folds]
    return Splits(tuple(key for key in rest if key not in set(validation)), validation, hands[fold])
