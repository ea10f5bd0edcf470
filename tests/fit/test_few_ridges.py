"""Ridges of few rows: larger ones than those of many rows, and fits that do not stall where everything can be told."""

import numpy as np
import pytest
import torch

from probekit.fit.path import LAMBDAS
from probekit.fit.readers import Side, Site
from probekit.fit.readout import cross_entropy, fit_readout, log_prior
from probekit.metrics.splits import splits_by_group
from probekit.testbeds.ground_truth import draw
from probekit.testbeds.ground_truth.wide import widened


def site_of(x, law, split, seed=0):
    """(the site, the test side) of one split, with its inner folds."""
    parts = split.fit, split.select, split.test
    shown = torch.from_numpy(np.ascontiguousarray(law.T[:, None])).float()
    prior = log_prior(shown[..., split.fit])
    fit, select, test = (Side(torch.from_numpy(x[at]).float(), shown[..., at], prior[..., None].repeat(1, 1, len(at)))
                         for at in parts)  # fmt: skip
    place = {row: i for i, row in enumerate(np.concatenate([split.fit, split.select]).tolist())}
    inner = [tuple(torch.tensor([place[row] for row in rows.tolist()]) for rows in pair) for pair in split.inner]
    return Site.prepare([(fit, select, None)], seed, inner=inner)[0], test


@pytest.mark.parametrize("n", [500, 900])
def test_a_little_more_rows_than_coordinates_may_want_more_ridge_than_many(n):
    """1.3 and 2.3 rows per coordinate: six loud features of which one counts, in noise that must not be leant on."""
    wide = widened(draw("P9", n + 3000, 8, 1), 256, 1)
    site, _ = site_of(wide.activations, wide.law, splits_by_group(np.arange(n), 0, 5, 3)[0])
    z = site.frame.apply(torch.from_numpy(wide.activations[n:]))
    law = torch.from_numpy(np.ascontiguousarray(wide.law[n:].T[:, None]))
    largest = torch.tensor([max(LAMBDAS)])
    usual = fit_readout(site.whole.z, site.whole.law, site.whole.offset, site.frame.variance, largest)
    chosen, before = (float(cross_entropy(found.logits(z), law).mean()) for found in (site.linear, usual))
    assert float(site.linear.ridge) > max(LAMBDAS)
    assert chosen < before - 0.005


def test_rows_that_any_readout_tells_apart_are_fitted_where_folds_start_badly():
    """Two loud signs in 512 coordinates of noise: the mean of three sure readouts hardly bends, and steps stall."""
    planted = widened(draw("P4a", 200, 8, 10), 512, 10)
    for split in splits_by_group(planted.group, 10, 5, 3):
        site, test = site_of(planted.activations, planted.law, split, 10)
        assert float(cross_entropy(site.linear.logits(site.frame.apply(test.x)), test.law).mean()) < 0.05
