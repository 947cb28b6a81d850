"""Any numbers as a curve: an interval, a reason for none, or a ValueError; ``DLNJAX_DRAWS`` sets how many are drawn."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dlnjax.analysis import coverage, rates

DRAWS = int(os.environ.get("DLNJAX_DRAWS", "40"))
often = settings(max_examples=DRAWS, deadline=None, derandomize=True, database=None)
ANY = st.one_of(st.floats(), st.floats(1e-300, 1e300), st.sampled_from([0.0, 1.0, 5e-324, 1.7e308]))


def is_an_answer(fit):
    if fit.factor is None:
        assert fit[:5] == (None,) * 5
        assert fit.reason.startswith("no asymptotic regime: ")
    else:
        assert fit.reason is None
        assert 0 < fit.low <= fit.factor <= fit.high < 1
        assert fit.first < fit.last


@often
@given(arrays.arrays(float, st.integers(0, 60), elements=ANY), st.integers(1, 10**6))
def test_any_numbers(distance, every):
    is_an_answer(rates.fit(every * np.arange(len(distance)), distance))


@often
@given(st.lists(st.integers(-5, 100), max_size=30), st.integers(0, 30))
def test_steps_that_do_not_increase(step, length):
    if len(step) == length and (np.diff(step) > 0).all():
        is_an_answer(rates.fit(step, np.ones(length)))
    else:
        with pytest.raises(ValueError, match=r"one length|must increase"):
            rates.fit(step, np.ones(length))


@often
@given(st.floats(1e-5, 0.5), st.integers(12, 200), st.floats(2.2, 30), st.integers(-250, 250))
def test_one_mode_at_any_scale(gap, records, nats, decades):
    """A single clean mode, from 1e-250 to 1e250: its factor, whatever the scale."""
    every = max(1, round(nats / -np.log1p(-gap) / records))
    step = every * np.arange(records + 1)
    curve = (1 - gap) ** step
    fit = rates.fit(step, curve * 10.0**decades)
    is_an_answer(fit)
    if fit.factor is not None:
        assert fit.low <= 1 - gap <= fit.high


@often
@given(st.sampled_from(coverage.kinds()), st.integers(10**6, 2 * 10**6))
def test_intervals_are_narrow_only_where_they_may_be(kind, seed):
    """No curve of the simulation gives an interval that is off by more than a few modes' distance."""
    step, error, truth = coverage.curve(kind, seed)
    fit = rates.fit(step, error)
    is_an_answer(fit)
    if fit.factor is not None:
        reach = 1.2 * max(kind.gap * (kind.modes - 1), 0.06) * (1 - truth)
        assert fit.low - reach <= truth <= fit.high + reach
