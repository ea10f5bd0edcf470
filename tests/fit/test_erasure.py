"""LEACE: the eraser is concept-erasure's, a linear reader learns nothing after it, and XOR is left as it was."""

import numpy as np
import pytest
import torch
from concept_erasure import LeaceEraser
from sklearn.linear_model import LogisticRegression

from probekit.fit.erasure import fit_eraser


def rows(n=2_000, d=12, m=3, rank=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, m, (n,), generator=generator)
    concept = torch.nn.functional.one_hot(labels, m).double()
    mixed = torch.randn(m, d, generator=generator).double()
    noise = torch.randn(n, rank, generator=generator).double() @ torch.randn(rank, d, generator=generator).double()
    return 3 * concept @ mixed + noise, concept, labels.numpy()


@pytest.mark.parametrize(("m", "scale"), [(2, 1.0), (3, 1.0), (3, 1e-6), (3, 1e6)])
def test_it_is_the_eraser_of_concept_erasure(m, scale):
    x, concept, _ = rows(m=m)
    x = scale * x
    theirs = LeaceEraser.fit(x, concept, shrinkage=False, svd_tol=1e-9, constrain_cov_trace=False)
    found = fit_eraser(x, concept)
    assert found.k == m - 1
    assert torch.allclose(found(x), theirs(x), atol=1e-7 * scale)


def test_a_linear_reader_learns_nothing_after_it_and_something_before():
    x, concept, labels = rows()
    after = fit_eraser(x, concept)(x)
    chance = np.bincount(labels).max() / len(labels)
    before = LogisticRegression(max_iter=500).fit(x, labels).score(x, labels)
    left = LogisticRegression(max_iter=500).fit(after, labels).score(after, labels)
    assert before > chance + 0.3 and left < chance + 0.01
    # removing the mean differences alone, the naive way, leaves something to learn
    means = torch.stack([x[labels == i].mean(0) for i in range(3)])
    span = torch.linalg.svd(means - means.mean(0), full_matrices=False).Vh[:1]
    naive = x - (x - x.mean(0)) @ span.T @ span
    assert LogisticRegression(max_iter=500).fit(naive, labels).score(naive, labels) > chance + 0.1


def test_a_function_that_no_line_reads_is_left_alone():
    """XOR and parity: the eraser is the identity, so that nothing follows from what it leaves."""
    signs = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)]).repeat(100, 1).double()
    x = signs @ torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).double()
    xor = (signs.prod(1) > 0).double()[:, None]
    found = fit_eraser(x, torch.cat([xor, 1 - xor], 1))
    assert found.k == 0 and torch.equal(found(x), x)


def test_rows_that_span_less_than_the_width():
    x, concept, _ = rows(n=60, d=100, rank=5)
    found = fit_eraser(x, concept)
    assert torch.isfinite(found(x)).all()
    z = found(x) - found(x).mean(0)
    assert float((z.T @ (concept - concept.mean(0))).abs().max()) < 1e-6
