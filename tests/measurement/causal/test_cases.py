"""Cases: who stands in for a case of several edited tokens."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from probekit.measurement.causal.cases import CaseRows, Cases
from probekit.metrics.bootstrap import Clusters
from probekit.model.branching import EditedTexts


def no_site(hook: str) -> Float[Tensor, "n d"]:
    raise AssertionError("nothing is run here")


def cases_of(first, second):
    """Two sets of examples, each a list of how many rows it has; rows are numbered in order."""
    example = np.concatenate([np.repeat(np.arange(len(first)), first),
                              np.repeat(np.arange(len(second)) + len(first), second)])  # fmt: skip
    position = np.concatenate([np.arange(n) for n in (*first, *second)])
    answer, n = np.full(len(example), 9), int(sum(first))
    mine, pool = (CaseRows.of(np.arange(*part), example, answer, position, example) for part in
                  ((0, n), (n, len(example))))  # fmt: skip
    law, bits = np.full((len(first), 2), 0.5), np.ones(len(first))
    texts = EditedTexts([np.arange(10)] * len(first), [np.arange(n) for n in first], np.full(len(first), 9))
    return Cases(mine, pool, texts, law, np.full((len(second), 2), 0.5), bits, bits * 0,
                 Clusters.of(mine.group, 200, 0))  # fmt: skip


def test_matched_donors_agree_at_each_token_and_not_in_the_mean():
    """Of the pool half have the case's values in the other order: their means are the same, their tokens are not."""
    cases = cases_of([2, 2], [2] * 12)
    values = np.array([[1.0], [5.0], [5.0], [1.0], *[[1.0], [5.0]] * 6, *[[5.0], [1.0]] * 6])
    found = cases.matched(values, 4, 0, no_site)
    assert set(found.index[0].tolist()) <= set(range(6)) and set(found.index[1].tolist()) <= set(range(6, 12))


def test_only_the_tokens_that_a_case_takes_over_are_compared():
    """A case of one token and donors of two: the last one stands in, whatever the other is; and the reverse repeats."""
    cases = cases_of([1, 2], [2] * 6 + [1] * 6)
    pool = (
        [v for _ in range(3) for v in (9.0, 1.0)] + [v for _ in range(3) for v in (-9.0, 2.0)] + [1.0] * 3 + [2.0] * 3
    )
    values = np.array([1.0, 2.0, 2.0, *pool])[:, None]
    found = cases.matched(values, 3, 0, no_site)
    assert set(found.index[0].tolist()) <= {0, 1, 2, 6, 7, 8}  # whose last token is 1
    assert set(found.index[1].tolist()) == {9, 10, 11}  # 2 at both, by repeating


def test_one_token_is_matched_as_before():
    cases = cases_of([1] * 5, [1] * 20)
    values = np.random.default_rng(0).normal(size=(25, 3))
    found = cases.matched(values, 4, 3, no_site).index
    spread = values[5:].std(0)
    distance = (((values[:5, None] - values[None, 5:]) / spread) ** 2).sum(2)
    for mine, near in zip(found, np.argsort(distance, 1)[:, :4], strict=True):
        assert set(mine.tolist()) == set(near.tolist())
