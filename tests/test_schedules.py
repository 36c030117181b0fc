# SPDX-License-Identifier: Apache-2.0
import pytest

from analysis import schedules


def steps(schedule, last):
    return [step for step in range(last + 1) if schedule(step)]


def test_every_takes_the_multiples_and_the_start():
    assert steps(schedules.every(4), 12) == [0, 4, 8, 12]


def test_logarithmic_takes_small_steps_all_and_large_ones_rarely():
    taken = steps(schedules.logarithmic(per_decade=5), 1000)
    assert taken == [
        0,
        1,
        2,
        3,
        4,
        6,
        10,
        16,
        25,
        40,
        63,
        100,
        158,
        251,
        398,
        631,
        1000,
    ]


@pytest.mark.parametrize("per_decade", [1, 3, 10, 100])
def test_logarithmic_has_no_gap_at_powers_of_ten(per_decade):
    schedule = schedules.logarithmic(per_decade=per_decade)
    assert all(schedule(10**power) for power in range(10))


def test_schedules_combine():
    either = schedules.any_of(schedules.every(4), schedules.every(6))
    assert steps(either, 12) == [0, 4, 6, 8, 12]
    both_sides = schedules.and_before(schedules.every(4))
    assert steps(both_sides, 9) == [0, 3, 4, 7, 8]


@pytest.mark.parametrize("interval", [0, -1])
def test_intervals_are_positive(interval):
    with pytest.raises(ValueError, match=f"Received: {interval}"):
        schedules.every(interval)
    with pytest.raises(ValueError, match=f"Received: {interval}"):
        schedules.logarithmic(per_decade=interval)
