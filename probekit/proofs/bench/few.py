"""The bench of few rows: the linear level over a site's folds beside the loop over scikit-learn that people write."""

import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.fft import dct
from torch import Tensor

from probekit.fit.frame import Span
from probekit.fit.readers import Reader, Side, Site, fit_level
from probekit.fit.readout import cross_entropy
from probekit.levels import DEFAULT, Level
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.ratios import estimates, fbu
from probekit.metrics.splits import Split, splits_by_group
from probekit.proofs.bench import Row, timed

OUTER, INNER, ROWS_PER_GROUP = 5, 3, 4
RIDGES = tuple(10.0**power for power in range(0, -6, -1))  # beside the two that few rows add: eight
KS, SIMPLE_KS = (1, 2, 4, 8, 16, 32, 64, 128), (1, 2, 4, 8)


spent = partial(timed, clock=time.process_time)


@dataclass(frozen=True)
class FewSize:
    """n, d and sites of the problem, bootstrap samples, and how many sites are timed: they are alike."""

    n: int
    d: int
    sites: int
    bootstrap: int
    timed: int


FULL = FewSize(1_000, 4_096, 32, 2_000, 1)
QUICK = FewSize(120, 200, 2, 200, 1)


def few_bench(size: FewSize) -> Iterator[Row]:
    """Ours for `linear` over scikit-learn's, then all default levels over `linear`, in seconds of the processor.

    The second row's peer is `linear` itself; its ratio is below 1.
    """
    alone, theirs, every, gaps = [], [], [], []
    for seed in range(size.timed):
        x, label, group = plant(size, seed)
        splits = splits_by_group(group, seed, OUTER, INNER)
        mine, seconds = spent(_ours, x, label, group, splits, ("linear",), size.bootstrap)
        alone.append(seconds)
        judge, seconds = spent(_scikit_learn, x, label, splits)
        theirs.append(seconds)
        gaps.append(abs(mine - judge))
        every.append(spent(_ours, x, label, group, splits, DEFAULT, size.bootstrap)[1])
    case = f"few rows: {size.sites} sites x 1 binary target, n {size.n}, d {size.d}, {OUTER} x {INNER} folds"
    linear, peer, levels = (size.sites * statistics.median(seconds) for seconds in (alone, theirs, every))
    bound = size.sites * OUTER * _products(size)
    yield Row.of(case, "scikit-learn, StandardScaler, LogisticRegressionCV", linear, peer, max(gaps), bound)
    yield Row.of(f"{case}, all default levels", "linear alone", levels, linear, 0.0, bound)


def plant(size: FewSize, seed: int) -> tuple[Float[Tensor, "n d"], NDArray[np.int64], NDArray[np.int64]]:
    """Rows whose spread falls a hundredfold along hidden directions, a label that the first thirty decide, groups."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(10, 0.1, size.d)
    hidden = rng.standard_normal((size.n, size.d))
    score = hidden[:, :30].sum(1)
    label = (score / score.std() + 0.5 * rng.standard_normal(size.n) > 0).astype(np.int64)
    # A cosine transform turns all coordinates into each other; a drawn rotation would cost more than the bench.
    x = dct(hidden * spread * rng.choice([-1, 1], size.d), norm="ortho", axis=1)
    return torch.from_numpy(x).float(), label, np.arange(size.n) // ROWS_PER_GROUP


def _ours(
    x: Tensor, label: NDArray, group: NDArray, splits: list[Split], levels: tuple[str, ...], n_bootstrap: int
) -> float:
    """Mean held-out bits of `linear` over all folds; every reader with its interval."""
    law = torch.nn.functional.one_hot(torch.from_numpy(label), 2).T[:, None].float().contiguous()
    rows, bits, span = [], {}, Span.of(x)
    for fold, split in enumerate(splits):
        prior = law[..., split.fit].mean(-1).log()

        def side(at: NDArray, prior: Tensor = prior) -> Side:
            return Side(x[at], law[..., at], prior[..., None].expand(-1, -1, len(at)))

        inner = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in _inner(split)]
        sides = side(split.fit), side(split.select), side(split.calibrate)
        framed = span.frame(torch.from_numpy(np.concatenate([split.fit, split.select])), sides[0].x, sides[1].x)
        site = Site.prepare([sides], fold, RIDGES, inner, framed)[0]
        test = side(split.test)
        rows.append(split.test)
        for reader in _readers(site, levels):
            name = f"{reader.level} {reader.source} {reader.k}"
            bits.setdefault(name, []).append(reader.bits(test)[0].double().numpy())
        bits.setdefault("floor", []).append(cross_entropy(test.offset, test.law)[0].double().numpy())
    clusters = Clusters.of(group[np.concatenate(rows)], n_bootstrap, 0)
    floor = np.concatenate(bits.pop("floor"))
    found = {name: np.concatenate(parts) for name, parts in bits.items() if len(parts) == len(splits)}
    estimates([fbu(lost, floor, np.zeros(len(lost))) for lost in found.values()], clusters)
    return float(found["linear behaviour None"].mean())


def _inner(split: Split) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The inner folds as positions in the rows of fit and then select."""
    both = np.concatenate([split.fit, split.select])
    place = np.empty(both.max() + 1, dtype=np.int64)
    place[both] = np.arange(len(both))
    return [(place[inside], place[outside]) for inside, outside in split.inner]


def _readers(site: Site, levels: tuple[str, ...]) -> Iterator[Reader]:
    for name in levels:
        level = Level.parse(name)
        yield from fit_level(site, level, SIMPLE_KS if level.family == "simple" else KS)


def _scikit_learn(x: Tensor, label: NDArray, splits: list[Split]) -> float:
    """Mean held-out bits of the loop over the same folds."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import log_loss
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    values, bits = x.numpy(), []
    for split in splits:
        both = np.concatenate([split.fit, split.select])
        strengths = np.logspace(-6, 1, len(RIDGES) + 2).tolist()
        asked: dict[str, Any] = {"Cs": strengths, "cv": _inner(split), "scoring": "neg_log_loss", "max_iter": 1_000}
        # One thread, as ours: others that wait for work count as seconds of the processor, five times as many in all.
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", FutureWarning)  # defaults that will change, none of which matters here
            found = make_pipeline(StandardScaler(), LogisticRegressionCV(**asked)).fit(values[both], label[both])
        bits.append(log_loss(label[split.test], found.predict_proba(values[split.test]), labels=[0, 1]) / np.log(2))
    return float(np.average(bits, weights=[len(split.test) for split in splits]))


def _products(size: FewSize) -> float:
    """Seconds of the processor that the rows' products with each other cost in single precision, best of three."""
    rows = torch.randn(size.n, size.d)
    return min(spent(torch.mm, rows, rows.T)[1] for _ in range(3)) or 1e-9
