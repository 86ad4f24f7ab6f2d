"""Which versions a policy chooses."""

from hypothesis import given
from hypothesis import strategies as st
from stoker.repository.version_policy import All, Latest, Specific, choose, missing

versions = st.sets(st.integers(1, 50), max_size=8)


def test_latest_is_the_highest_number_not_the_highest_text() -> None:
    assert choose(Latest(), [9, 10, 2]) == (10,)


def test_latest_of_several_takes_the_highest_ones_in_rising_order() -> None:
    assert choose(Latest(2), [1, 10, 9]) == (9, 10)


def test_latest_of_none_means_one() -> None:
    assert choose(Latest(0), [1, 2]) == (2,)


def test_specific_versions_that_are_missing_are_told() -> None:
    policy = Specific((1, 3, 7))
    assert choose(policy, [1, 2, 3]) == (1, 3)
    assert missing(policy, [1, 2, 3]) == (7,)


@given(versions, st.one_of(st.just(All()), st.integers(0, 9).map(Latest)))
def test_what_is_chosen_is_there_and_nothing_newer_is_left_out(
    available: set[int], policy: All | Latest
) -> None:
    chosen = choose(policy, available)
    assert set(chosen) <= available
    assert all(left < min(chosen) for left in available - set(chosen))
    assert bool(chosen) == bool(available)
    assert missing(policy, available) == ()
