"""Bootstrap: coverage in clusters, agreement with SciPy, sums resampled together."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from probekit.metrics.bands import band_of
from probekit.metrics.bootstrap import (
    Bootstrap,
    Clusters,
    Crossed,
    Differences,
    ratio_interval,
    ratio_intervals,
    resampled,
)
from probekit.metrics.rows import effective_rows


def weights_of(n_groups: int, n_bootstrap: int = 500, seed: int = 0) -> np.ndarray:
    return Clusters.of(np.arange(n_groups), n_bootstrap, seed).weights


seeds = st.integers(0, 99)


groups = st.lists(st.integers(-3, 30), min_size=4, max_size=80).filter(lambda g: len(set(g)) >= 4).map(np.array)


@settings(max_examples=30)
@given(st.integers(0, 999), st.floats(0.6, 0.98))
def test_a_p_value_is_alpha_where_the_limit_of_the_interval_lies(seed, level):
    """Without the correction for few groups, which 2,000 of them make small."""
    rng = np.random.default_rng(seed)
    numerator, denominator = rng.exponential(size=2_000), 1 + rng.random(2_000)
    drawn = Bootstrap.of_ratio(numerator, denominator, weights_of(2_000, 400))
    low, high = drawn.interval(level)
    assert drawn.p_above(high) == pytest.approx((1 - level) / 2, abs=0.01)
    assert drawn.p_below(low) == pytest.approx((1 - level) / 2, abs=0.01)


@settings(max_examples=30)
@given(seeds, st.integers(2, 300), st.integers(1, 7))
def test_many_intervals_at_once_are_those_of_each_ratio_alone(seed, n_groups, m):
    """Against draws made one sum at a time; some ratios are constant or have nothing to explain in some draws."""
    rng = np.random.default_rng(seed)
    weights = weights_of(n_groups, 300, seed)
    numerator, denominator = rng.exponential(size=(m, n_groups)), 1 + rng.random((m, n_groups))
    numerator[0] = denominator[0]
    denominator[-1, 1:] = 0
    many = Bootstrap.of_ratios(numerator, denominator, weights)
    for a, b, found, interval in zip(
        numerator, denominator, many, ratio_intervals(numerator, denominator, weights), strict=True
    ):
        with np.errstate(divide="ignore", invalid="ignore"):
            replicates, left_out = (weights @ a) / (weights @ b), (a.sum() - a) / (b.sum() - b)
        alone = Bootstrap.of(a.sum() / b.sum(), replicates, left_out)
        assert found.replicates == pytest.approx(alone.replicates, rel=1e-12)
        told = [found.value, found.bias, found.acceleration, *interval]
        expected = [alone.value, alone.bias, alone.acceleration, *alone.interval()]
        assert told == pytest.approx(expected, rel=1e-9, abs=1e-9)
    if m > 1:
        assert ratio_intervals(numerator, denominator, weights)[0] == (1, 1)


@pytest.mark.parametrize(("correlation", "by_row"), [(0.1, 0.72), (0.5, 0.39)])
def test_coverage_of_clusters_and_of_rows(correlation, by_row):
    """The figures of docs/method.md 7.4, and that effective rows explain them."""
    rng = np.random.default_rng(20)
    group, reps = np.repeat(np.arange(40), 25), 500
    clusters, rows = Clusters.of(group, 400, 0), Clusters.of(np.arange(1000), 400, 0)
    hits = np.zeros(2)
    for _ in range(reps):
        noise = np.sqrt(correlation) * rng.normal(size=40)[group] + np.sqrt(1 - correlation) * rng.normal(size=1000)
        for i, unit in enumerate((clusters, rows)):
            low, high = ratio_interval(unit.sums(2 + noise), unit.sums(np.ones(1000)), unit.weights)
            hits[i] += low <= 2 <= high
    assert hits[0] / reps >= 0.91
    assert hits[1] / reps == pytest.approx(by_row, abs=0.06)
    shrunk = np.sqrt(effective_rows(group, correlation) / 1000)
    assert by_row == pytest.approx(2 * scipy.stats.norm.cdf(1.96 * shrunk) - 1, abs=0.03)


def test_bca_agrees_with_scipy_on_independent_rows():
    rng = np.random.default_rng(0)
    numerator = rng.exponential(size=60)
    denominator = 1 + rng.random(60)
    weights = Clusters.of(np.arange(60), 8_000, 0).weights
    ours = ratio_interval(numerator, denominator, weights)
    theirs = scipy.stats.bootstrap(
        (numerator, denominator), lambda a, b, axis=-1: a.sum(axis) / b.sum(axis), paired=True, method="BCa",
        n_resamples=8_000, rng=np.random.default_rng(1), vectorized=True,
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.04 * width)
    # the distribution is skewed, so the plain percentile interval is elsewhere
    percentile = np.quantile((weights @ numerator) / (weights @ denominator), (0.025, 0.975))
    assert ours[1] - percentile[1] > 0.04 * width


def test_cluster_bootstrap_covers_where_row_bootstrap_does_not():
    rng = np.random.default_rng(2)
    group, rows, icc, reps = np.repeat(np.arange(40), 25), np.arange(1000), 0.1, 150
    by_group, by_row = Clusters.of(group, 400, 0), Clusters.of(rows, 400, 0)
    hits = np.zeros(2)
    for _ in range(reps):
        loss = 2 + np.sqrt(icc) * rng.normal(size=40)[group] + np.sqrt(1 - icc) * rng.normal(size=1000)
        for i, clusters in enumerate((by_group, by_row)):
            low, high = ratio_interval(clusters.sums(loss), clusters.sums(np.ones(1000)), clusters.weights)
            hits[i] += low <= 2 <= high
    assert hits[0] / reps >= 0.9
    assert hits[1] / reps <= 0.8


def test_pairing_removes_what_numerator_and_denominator_share():
    rng = np.random.default_rng(3)
    denominator = rng.exponential(size=100)
    numerator = 0.5 * denominator
    low, high = ratio_interval(numerator, denominator, Clusters.of(np.arange(100), 500, 0).weights)
    assert (low, high) == pytest.approx((0.5, 0.5), abs=1e-6)
    noisy = numerator + 0.01 * rng.normal(size=100)
    low, high = ratio_interval(noisy, denominator, Clusters.of(np.arange(100), 500, 0).weights)
    assert 0.001 < high - low < 0.01
    alone = ratio_interval(noisy, np.full(100, denominator.mean()), Clusters.of(np.arange(100), 500, 0).weights)
    assert alone[1] - alone[0] > 20 * (high - low)


@given(groups)
def test_cluster_sums_and_sizes_are_those_of_the_rows(group):
    clusters = Clusters.of(group, 10, 0)
    value = np.arange(len(group), dtype=float)
    assert clusters.sums(value).tolist() == [value[group == name].sum() for name in clusters.names]
    assert clusters.sizes.tolist() == [(group == name).sum() for name in clusters.names]
    assert (clusters.weights.sum(1) == len(clusters.names)).all()


def test_pools_of_as_many_groups_share_one_draw_and_nobody_changes_it():
    first, second = Clusters.of(np.arange(30) // 2, 50, 3), Clusters.of(np.array(list("abcdefghijklmno")), 50, 3)
    assert first.weights is second.weights
    drawn = np.random.default_rng([3, 4]).multinomial(15, np.full(15, 1 / 15), size=50)
    assert np.array_equal(first.weights, drawn)
    assert not np.array_equal(first.weights, Clusters.of(np.arange(15), 50, 4).weights)
    with pytest.raises(ValueError, match="read-only"):
        first.weights[0, 0] = 7


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 300))
def test_sums_that_are_resampled_together_are_those_of_each_alone(seed, m, n_bootstrap):
    weights = Clusters.of(np.arange(40), n_bootstrap, seed).weights
    sums = np.random.default_rng(seed).normal(size=(m, 40))
    found = resampled(np.concatenate([sums, sums[::-1]]), weights)
    assert found[:m] == pytest.approx(np.stack([weights @ row for row in sums]), rel=1e-12, abs=1e-12)
    assert np.array_equal(found[:m], found[: m - 1 : -1]), "equal sums are to be equal to the last digit"


# Pairs share bases and donors -----------------------------------------------------------------------------------------


def crossed_rows(rng, n_first=40, n_second=30, n=1200):
    return rng.integers(0, n_first, n), rng.integers(0, n_second, n)


def test_intervals_of_pairs_cover_where_those_over_bases_do_not():
    """Effects of bases and of donors; also that a row's own noise alone does not widen them as resampling both does."""
    rng = np.random.default_rng(30)
    hits, widths, reps, n = np.zeros(2), [], 300, 1200
    for _ in range(reps):
        base, donor = crossed_rows(rng)
        noise = rng.normal(size=40)[base] + rng.normal(size=30)[donor] + rng.normal(size=n)
        denominator = 1 + rng.random(n)
        numerator, clusters = 0.5 * denominator + noise, Clusters.of(base, 300, 0)
        told = [
            ratio_interval(clusters.sums(numerator), clusters.sums(denominator), clusters.weights),
            Crossed.of(base, donor).interval(numerator, denominator),
        ]
        hits += [low <= 0.5 <= high for low, high in told]
        own = rng.normal(size=n)
        widths.append(Crossed.of(base, donor).error(own, np.ones(n)) / (1 / np.sqrt(n)))
    assert hits[0] / reps < 0.85
    assert hits[1] / reps >= 0.91
    assert 0.9 < np.mean(widths) < 1.25  # resampling both would give the root of 3


def test_the_error_of_pairs_agrees_with_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(31)
    base, donor = crossed_rows(rng)
    y = 2 + rng.normal(size=40)[base] + rng.normal(size=30)[donor] + rng.normal(size=1200)
    crossed = Crossed.of(np.array([f"text {b}" for b in base]), donor)
    fitted = sm.OLS(y, np.ones(1200)).fit(
        cov_type="cluster", cov_kwds={"groups": np.column_stack([base, donor]), "use_correction": True}
    )
    assert crossed.fewest == 30
    assert crossed.error(y, np.ones(1200)) == pytest.approx(float(fitted.bse[0]), rel=2e-3)


def test_pairs_of_one_base_have_no_interval_and_equal_pairs_no_width():
    one = Crossed.of(np.zeros(10), np.arange(10))
    assert np.isnan(one.error(np.arange(10.0), np.ones(10)))
    assert one.interval(np.arange(10.0), np.ones(10)) == (4.5, 4.5)
    same = Crossed.of(np.arange(10) % 3, np.arange(10) % 4)
    assert same.interval(np.ones(10), np.ones(10)) == (1, 1)


@settings(max_examples=40)
@given(seeds, st.integers(2, 9), st.integers(2, 9))
def test_the_error_of_pairs_is_never_below_that_of_either_kind(seed, n_first, n_second):
    rng = np.random.default_rng(seed)
    base, donor = np.arange(60) % n_first, rng.permutation(60) % n_second
    x, y = rng.normal(size=60), 1 + rng.random(60)
    error = Crossed.of(base, donor).error(x, y)
    for part in (base, donor):
        left = np.bincount(part, x - x.sum() / y.sum() * y) / y.sum()
        assert error >= np.sqrt((left**2).sum()) - 1e-12


def two_readers(rng, n_groups, gap, own):
    """Sums of two readers over the same groups, whose difficulty both share: the second leaves `gap` less."""
    hard = rng.exponential(size=n_groups)
    available = hard + rng.exponential(size=n_groups)
    first, second = (hard * share + own * rng.normal(size=n_groups) for share in (0.6, 0.6 - gap))
    return (first[None], available[None]), (second[None], available[None])


def test_groups_drawn_once_for_both_tell_what_two_sets_of_draws_cannot():
    """The truth, by the means of its parts: 0.6 / 2 against 0.54 / 2."""
    first, second = two_readers(np.random.default_rng(3), 120, 0.06, 0.05)
    weights = weights_of(120, 2_000), weights_of(120, 2_000, 1)
    paired = Differences.paired(first, second, weights[0])
    unpaired = Differences.unpaired(first, second, weights)
    (low, high), (naive_low, naive_high) = paired.intervals()[0], unpaired.intervals()[0]
    assert paired.value == pytest.approx(unpaired.value)
    assert low < -0.03 < high < 0  # told to be better
    assert naive_low < -0.03 < 0 < naive_high  # cannot be told
    assert high - low < (naive_high - naive_low) / 2


def test_a_ratio_against_itself_differs_by_nothing_in_every_draw():
    first, _ = two_readers(np.random.default_rng(0), 60, 0.1, 0.3)
    same = Differences.paired(first, tuple(part.copy() for part in first), weights_of(60))
    assert same.value[0] == 0 and np.ptp(same.drawn) == 0
    assert same.intervals() == [(0.0, 0.0)]


@pytest.mark.parametrize(("how", "n_groups"), [("paired", 60), ("paired", 300), ("unpaired", 100)])
def test_intervals_of_differences_cover(how, n_groups):
    rng, truth, covered, n = np.random.default_rng(11), -0.05, 0, 300
    weights = weights_of(n_groups, 1_000), weights_of(n_groups, 1_000, 1)
    for _ in range(n):
        first, second = two_readers(rng, n_groups, 0.1, 0.2)
        if how == "paired":
            found = Differences.paired(first, second, weights[0])
        else:
            found = Differences.unpaired(first, two_readers(rng, n_groups, 0.1, 0.2)[1], weights)
        low, high = found.intervals()[0]
        covered += low <= truth <= high
    assert 0.92 <= covered / n <= 0.985  # two standard errors of .95 are .025


def test_a_band_of_differences_covers_all_of_them_at_once():
    rng, covered, n, n_groups = np.random.default_rng(5), 0, 200, 100
    weights = weights_of(n_groups, 600)
    for _ in range(n):
        pairs = [two_readers(rng, n_groups, 0.1, 0.3) for _ in range(12)]
        first, second = (tuple(np.concatenate([pair[i][part] for pair in pairs]) for part in (0, 1)) for i in (0, 1))
        found = Differences.paired(first, second, weights)
        low, high = band_of(found.value, found.drawn, found.left_out)
        covered += bool(((low <= -0.05) & (high >= -0.05)).all())
    assert 0.90 <= covered / n <= 0.99
