"""Plants of foresight, measured: a predictor frozen on seen rows ranks others, sealed before their answers are used."""

from collections.abc import Sequence
from tempfile import TemporaryDirectory

import numpy as np

from probekit.fit.badness import Predictor
from probekit.jobs.foresight import ONLY, foresee
from probekit.records import Record
from probekit.testbeds.ground_truth import SEEN, Truth, draw
from probekit.testbeds.ground_truth.foreseen import BUDGET


def foreseen(name: str, truths: Sequence[Truth], n: int, d: int, seed: int) -> list[Record]:
    """Records of a case of foresight: half of the seen rows are learned from, all others ranked, by domain."""
    planted = draw(name, n, d, seed, varied=True, domains=2)
    seen, bad = planted.domain == SEEN, planted.law[:, 1] > 0.5
    learned = seen & (np.random.default_rng([seed, 61]).random(len(seen)) < 0.5)
    predictor = Predictor.fit(planted.activations[learned], bad[learned], planted.group[learned], seed)
    rows = np.flatnonzero(~learned)
    with TemporaryDirectory() as folder:
        sealed = foresee(folder, rows.astype(str).tolist(), predictor.scores(planted.activations[rows]))
        sealed.run(lambda: bad[rows])
        out = []
        for truth in truths:
            at = planted.domain[rows] == truth.test_domain
            told = sealed.judge(planted.group[rows], BUDGET, at=at, n_bootstrap=1_000, seed=seed)
            found = told.rankings[ONLY]["leak"]
            out.append(Record(
                behaviour="behaviour", fit_domain=SEEN, test_domain=truth.test_domain, metric=truth.metric,
                level=truth.level, source=truth.source, value=found.value, low=found.low, high=found.high, n=found.n,
                groups=found.groups, na_reason=found.na_reason, note=found.note, n_fit=int(learned.sum()),
            ))  # fmt: skip
    return out
