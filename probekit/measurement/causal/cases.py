"""Cases: what is run when a network is edited. The tokens of a text that are edited together, and the donors they get.

A case is the rows of one example whose answer is read behind one token. Where behaviours are read at the rows
themselves that is one row; where they are read elsewhere (`Task.answer`) it is all rows of the example.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.activations import Activations
from probekit.errors import BadInput, FitError
from probekit.measurement.setting import Setting
from probekit.measurement.study import Study
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.causal.replace import match_donors, random_donors
from probekit.model.branching import At, EditedTexts
from probekit.model.reading import batches, halving
from probekit.task import Task

T = TypeVar("T")
ROUNDING = 1e-5  # of the activations' norm
POOL = 2_000  # donors are drawn from at most this many cases of the fit side
AT_ONCE = 2_048  # tokens of the texts that are run together


@dataclass(frozen=True)
class CaseRows:
    """Some cases, by rows of the observations: table [n, most], ascending, a case of fewer beginning with repeats.

    count [n]: rows of each; group [n].
    """

    table: NDArray[np.int64]
    count: NDArray[np.int64]
    group: NDArray

    @classmethod
    def of(
        cls, rows: NDArray[np.int64], example: NDArray, answer: NDArray, position: NDArray, group: NDArray
    ) -> "CaseRows":
        """Cases of these rows, in the order in which they first appear.

        example, answer, position, group: of each row of the observations.
        """
        key = np.stack([example[rows], answer[rows]], 1)
        _, first, code = np.unique(key, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(np.argsort(first))  # number of each case by first appearance
        case = order[code.reshape(-1)]
        count = np.bincount(case)
        by = np.lexsort((position[rows], case))
        start = np.concatenate([[0], np.cumsum(count)[:-1]])
        back = np.arange(count.max())[::-1]  # from the last row backwards, so that cases end alike
        table = rows[by][start[:, None] + np.maximum(count[:, None] - 1 - back, 0)]
        return cls(table, count, np.asarray(group)[table[:, -1]])

    def __len__(self) -> int:
        return len(self.table)

    def some(self, at: NDArray[np.int64]) -> "CaseRows":
        """The cases at these places."""
        return CaseRows(self.table[at], self.count[at], self.group[at])

    @property
    def last(self) -> NDArray[np.int64]:
        """The last row of each, which stands for it: [n]."""
        return self.table[:, -1]

    def last_of(self, count: int) -> NDArray[np.int64]:
        """The last `count` rows of each, one of fewer beginning with repeats: [n, count]."""
        lacking = max(0, count - self.table.shape[1])
        return np.pad(self.table, ((0, 0), (lacking, 0)), mode="edge")[:, -count:]


Sites = Callable[[str], Float[Tensor, "n d"]]


class Lately:
    """What was made last, by its kind; it is made again only for another key.

    >>> lately = Lately()
    >>> lately("square", 3, lambda: 9), lately("square", 3, lambda: 0), lately("square", 4, lambda: 16)
    (9, 9, 16)
    """

    def __init__(self) -> None:
        self._made: dict[str, tuple[object, object]] = {}

    def __call__(self, kind: str, key: object, make: Callable[[], T]) -> T:
        """What `make` gives, or gave for this key if no other of the kind was asked for since."""
        if kind not in self._made or self._made[kind][0] != key:
            self.forget(kind)  # before there are two of them
            self._made[kind] = key, make()
        return cast(T, self._made[kind][1])

    def forget(self, kind: str) -> None:
        """Let go of it."""
        self._made.pop(kind, None)


class RowsAt:
    """Activations of all rows at a hook point, as float32; read when first asked for, and kept."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations
        self._found: dict[str, Float[Tensor, "n d"]] = {}

    def __call__(self, hook: str) -> Float[Tensor, "n d"]:
        if hook not in self._found:
            self._found[hook] = self._activations.sites[hook].float()
        return self._found[hook]


@dataclass(frozen=True, eq=False)  # told apart as objects: what is done with the same donors is done once
class Donors:
    """Who stands in for each case. index [n, m]: numbers of cases of `rows`, whose unedited laws are law [n_pool,
    outcome], and whose activations at a hook point `site` gives."""

    index: NDArray[np.int64]
    rows: CaseRows
    law: NDArray[np.float64]
    site: Sites

    @property
    def n(self) -> int:
        """Donors of each case."""
        return self.index.shape[1]


@dataclass(frozen=True, eq=False)
class Cases:
    """The test cases that are run in one domain, what becomes of them unedited, and the pool that donors come from.

    law [n, outcome], pool_law [n_pool, outcome]: unedited; floor, ceiling [n] bits.
    """

    rows: CaseRows
    pool: CaseRows
    texts: EditedTexts
    law: NDArray[np.float64]
    pool_law: NDArray[np.float64]
    floor: NDArray[np.float64]
    ceiling: NDArray[np.float64]
    clusters: Clusters

    @classmethod
    def of(cls, task: Task, study: Study, setting: Setting, n: int, n_donors: int) -> "Cases":
        """At most n cases of the test side, drawn once for a domain, and donors' of the fit side. Raises BadInput."""
        generator = np.random.default_rng([study.seeds.data, 6])
        of = task.row_example, task.row_answer, task.row_position, study.observations.group
        test = CaseRows.of(setting.index[generator.permutation(setting.split.test)], *of)
        # those of one position stand together, as their texts are of similar length
        order = np.argsort(task.row_position[test.last[:n]], kind="stable")
        rows = test.some(order)
        pool = CaseRows.of(setting.index[generator.permutation(setting.split.fit)], *of)
        pool = pool.some(np.arange(min(len(pool), POOL)))
        if len(rows) < 2 or len(pool) <= n_donors:
            raise BadInput(f"domain '{setting.domain}' has {len(pool)} rows to draw {n_donors} donors from.")
        every = rows.table.reshape(-1)
        behind = every[task.row_position[every] > task.row_answer[every]]
        if len(behind):
            raise BadInput(
                f"example {task.row_example[behind[0]] + 1} is edited at token {task.row_position[behind[0]]} and "
                f"answers at token {task.row_answer[behind[0]]}: nothing behind an answer can change it."
            )
        place = np.full(len(study.observations), -1)
        place[setting.rows("test")] = np.arange(len(setting.split.test))
        at = place[rows.last]
        return cls(
            rows=rows,
            pool=pool,
            texts=texts_of(task, rows),
            law=setting.behaviour.law[rows.last].astype(np.float64),
            pool_law=setting.behaviour.law[pool.last].astype(np.float64),
            floor=setting.floor_bits()[at],
            ceiling=setting.test_ceiling[at],
            clusters=Clusters.of(rows.group, study.n_bootstrap, study.seeds.data),
        )

    def each_batch(self, run: Callable[[NDArray[np.int64]], object]) -> None:
        """Have `run` do something with each of the `batches`; one that runs out of memory is halved and done again.

        Raises FitError where a single text does not fit, which costs this cell alone.
        """
        for _ in halving(self.batches(), lambda batch: (run(batch),), self._alone, FitError):
            pass

    def _alone(self, case: int) -> str:
        return f"one text of {int(self.texts.lengths[case])} tokens was edited: shorten it, or take fewer donors."

    def batches(self) -> list[NDArray[np.int64]]:
        """Cases that are run together, of similar length."""
        return batches(self.texts.lengths, AT_ONCE)

    def random(self, n_donors: int, seed: int, site: Sites) -> Donors:
        """Donors of each case out of the pool, of other groups."""
        return self._of_pool(random_donors(self.rows.group, self.pool.group, n_donors, seed), site)

    def _of_pool(self, index: NDArray[np.int64], site: Sites) -> Donors:
        return Donors(index, self.pool, self.pool_law, site)

    def matched(self, values: NDArray, n_donors: int, seed: int, site: Sites, rounding: float = 0.0) -> Donors:
        """Those whose value of the abstraction is nearest at every edited token. values [n_all, k]: of every row of the
        observations. A case's rows are compared with a donor's from the last one backwards, as they are exchanged."""
        index = np.empty((len(self.rows), n_donors), np.int64)
        for count in np.unique(self.rows.count).tolist():
            at = np.flatnonzero(self.rows.count == count)
            mine, theirs = (
                values[rows.last_of(count)].reshape(len(rows), -1) for rows in (self.rows.some(at), self.pool)
            )
            group, others = self.rows.group[at], self.pool.group
            index[at] = match_donors(mine, theirs, group, others, n_donors, seed, rounding)
        return self._of_pool(index, site)

    def given(self, donors: "Donors", batch: NDArray[np.int64], at: At) -> Tensor:
        """Row of the donors' that each edited place of a batch of cases takes its activation from: [n].

        A donor's rows stand for a case's from the last one backwards.
        """
        case, table = batch[at.text.numpy()], donors.rows.table
        back = self.rows.count[case] - at.place.numpy()  # 1 for the last place
        return torch.from_numpy(table[donors.index[case, at.branch.numpy()], np.maximum(table.shape[1] - back, 0)])


def texts_of(task: Task, rows: CaseRows) -> EditedTexts:
    """The texts of cases, edited at their rows and read behind their answers."""
    places = [task.row_position[row[len(row) - n :]] for row, n in zip(rows.table, rows.count, strict=True)]
    example, read = task.row_example[rows.last], task.row_answer[rows.last]
    return EditedTexts([np.asarray(task.tokens[i]) for i in example], places, read)
