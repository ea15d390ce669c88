"""Schedules of what is due every so many steps."""

from training.schedules import Every


def test_every_counts_passed_multiples():
    every = Every(10, start=5)
    assert [every(count) for count in (9, 10, 19, 45, 45, 50)] == [0, 1, 0, 3, 0, 1]
    assert [Every(0)(count) for count in (0, 10)] == [0, 0]
