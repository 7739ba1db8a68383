"""Which case belongs to which split, by published rules on the cases' numbers or names alone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

# The 131 training cases of LiTS: the first 101 for training, then 15 for validation, the last 15 for the test, as in
# KiU-Net (Valanarasu et al., arXiv 2010.01663) and kaiko-eva.
PUBLISHED = "published"
_TRAIN, _VALIDATION, _TEST = 101, 15, 15
_FOLD = re.compile(r"fold-([0-9]{1,6})-of-([0-9]{1,6})(-brief)?")
# With "-brief", one case in so many of those outside the test fold is for validation.
_BRIEF = 20


Key = TypeVar("Key", int, str)


@dataclass(frozen=True)
class Splits(Generic[Key]):
    """Case numbers or names of each split in increasing order, and what the user has to be told about them."""

    train: tuple[Key, ...]
    validation: tuple[Key, ...]
    test: tuple[Key, ...]
    warnings: tuple[str, ...] = ()

    def items(self) -> tuple[tuple[str, tuple[Key, ...]], ...]:
        return ("train", self.train), ("validation", self.validation), ("test", self.test)


def check_rule(rule: str) -> None:
    """Raise ValueError unless `rule` is "published", or "fold-K-of-N[-brief]" with K < N and N at least 3."""
    match = _FOLD.fullmatch(rule)
    if rule != PUBLISHED and not (match and int(match[1]) < int(match[2]) and int(match[2]) >= 3):
        raise ValueError(
            'split: expected "published", "fold-K-of-N" or "fold-K-of-N-brief" with K < N and N >= 3. '
            f"Received: {rule!r}"
        )


def assign(numbers: Sequence[Key], rule: str = PUBLISHED) -> Splits[Key]:
    """Divide cases into train, validation and test.

    "published": of 131 cases the first 101, the next 15, the last 15 by case number; of any other count from 3 the same
    shares, rounded, with at least one case in each split. "fold-K-of-N": the cases, in the order of their numbers, are
    dealt out to N folds in turn; fold K is the test, fold K + 1 the validation, the rest the training.
    "fold-K-of-N-brief": the same test, but of the other cases only every 20th, at least one, is for validation: for a
    training that takes its last weights, whose validation only shows its course.

    One or two cases cannot be held out. So that a chain can still be tried on a single CT, two cases give one for
    training and the other for both validation and test; one case serves as all three. `warnings` then says that the
    scores are no estimate of the performance on unseen patients.

    Args:
        numbers: the numbers or the names of the cases.
        rule: one of the three rules above.

    Raises:
        ValueError: if there are no cases, a number repeats, the rule is unknown, or there are more folds than cases.
    """
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
            f"Case {order[0]} is training, validation and test case at once, because there is no other: the scores say "
            "that the chain runs, not how well the model segments unseen patients.",
        ))  # fmt: skip
    if count == 2:
        return Splits((order[0],), (order[1],), (order[1],), (
            f"Case {order[1]} is validation and test case at once, because there are only two cases: the test score is "
            "biased by the choice of the model on the validation score.",
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
