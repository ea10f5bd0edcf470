"""Examples: test rows that show what a reader misses, found where it is at hand, fold by fold."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.errors import BadInput, FitError
from probekit.fit.gaussian import is_value
from probekit.fit.readers import Reader, Side
from probekit.measurement.fold import Fold
from probekit.measurement.setting import Setting, moved_logits
from probekit.metrics.pairs import CounterexamplePairs, counterexample_pairs


def keep_examples(fold: Fold, reader: Reader) -> None:
    """Counterexample pairs of a reader on the fold's test rows, and of `linear` what it says of them and elsewhere.

    Nothing where the study keeps no examples.
    """
    if not fold.study.keeps_examples:
        return
    if reader.level == "linear" or (reader.level == "directions" and reader.source == "behaviour"):
        fold.cell.keep_pairs(fold.setting.fold, reader, _pairs(fold, reader))
    if reader.level == "linear" and not fold.setting.behaviour.is_value:
        _keep_answers(fold, reader)


def _pairs(fold: Fold, reader: Reader) -> CounterexamplePairs:
    """Within the fold, since readouts of two folds are not of one reader."""
    setting, test = fold.setting, fold.test
    rows = setting.rows("test")
    found = counterexample_pairs(
        _readouts(reader, test), setting.behaviour.law[rows], setting.group[setting.split.test],
        seed=fold.study.seeds.data,
    )  # fmt: skip
    return found.among(rows)


def _readouts(reader: Reader, test: Side) -> list[NDArray[np.float64]]:
    """What a reader has of each row: along directions its projections, in standard deviations, and the floor's logits
    beside which it speaks; else its own logits, which hold the floor's.
    """
    if reader.directions is None:
        return [_centred(reader.logits(test.x, test.offset))]
    along = (test.x @ reader.directions).double()
    along = (along - along.mean(0)) / along.std(0).clamp_min(1e-12)
    return [along.cpu().numpy(), _centred(test.offset)]


def _centred(logits: Float[Tensor, "outcome 1 n"]) -> NDArray[np.float64]:
    """Logits [n, outcome] that differ only where the laws do; of a number what is said of it."""
    said = logits[:, 0].T.double()
    return (said if is_value(logits) else said - said.mean(1, keepdim=True)).cpu().numpy()


def _keep_answers(fold: Fold, reader: Reader) -> None:
    """The likeliest outcome of each test row by `linear`, and its probability; elsewhere as it was fitted at home."""
    home = fold.setting
    fold.cell.keep_answers(home, *_answers(reader.logits(fold.test.x, fold.test.offset)))
    for domain in fold.study.domains[1:]:
        there = _there(fold, domain)
        if there is not None:
            logits = moved_logits(reader, home, there, fold.x, fold.study.observations, "test")
            fold.cell.keep_answers(there, *_answers(logits))


def _there(fold: Fold, domain: str) -> Setting | None:
    """The same fold of another domain; None of one that has too few groups even for a floor."""
    try:
        return fold.in_domain(domain)
    except (BadInput, FitError):
        return None


def _answers(logits: Float[Tensor, "outcome 1 n"]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    sure, said = torch.softmax(logits[:, 0].double(), 0).max(0)
    return said.cpu().numpy(), sure.cpu().numpy()
