"""In CI a property is tried with the same examples every time; with a time, new ones follow until it is over."""

import fuzzing
from hypothesis import strategies as st


def tried(examples):
    seen: list[int] = []

    def check(number):
        seen.append(number)

    fuzzing.explore(check, examples=examples, number=st.integers(0, 1 << 60))
    return seen


def test_without_a_time_the_examples_are_the_same_every_time(monkeypatch):
    monkeypatch.setattr(fuzzing, "MINUTES", 0)
    once = tried(10)
    assert len(once) == 10 and tried(10) == once


def test_with_a_time_the_same_examples_come_first_and_new_ones_follow(monkeypatch):
    monkeypatch.setattr(fuzzing, "MINUTES", 0)
    once = tried(10)
    monkeypatch.setattr(fuzzing, "MINUTES", 0.02)
    more = tried(10)
    assert more[:10] == once
    assert len({*more} - {*once}) > 10
