"""How long the cells of a job that are left will take, from those that are done."""

from collections.abc import Iterable

from probekit.jobs.cells import Cell

# What a cell of a kind costs beside one that reads: used for kinds that no cell has told of yet.
_WEIGHTS = {"feature": 0.15, "read": 1.0, "replace": 0.5, "selected": 0.1, "repeat": 0.5}
_CHAIN = 2.0  # a chain edits every site

_Kind = tuple[str, str, bool]


class Pace:
    """Seconds left, from the mean of what a cell of the same kind and behaviour took so far."""

    def __init__(self, cells: Iterable[Cell], n_workers: int = 1) -> None:
        self._left, self._n_workers = [_kind(cell) for cell in cells], n_workers
        self._took: dict[_Kind, list[float]] = {}

    def finished(self, unit: Cell, seconds: float) -> None:
        """One of them is done; what took no time (it failed) is no evidence."""
        self._left.remove(_kind(unit))
        if seconds > 0:
            self._took.setdefault(_kind(unit), []).append(seconds)

    def left(self) -> float | None:
        """Seconds, or None before the first cell is done."""
        if not self._took:
            return None
        means = {kind: sum(seconds) / len(seconds) for kind, seconds in self._took.items()}
        unit = sum(mean / _weight(kind) for kind, mean in means.items()) / len(means)
        return sum(means.get(kind, unit * _weight(kind)) for kind in self._left) / self._n_workers


def _kind(cell: Cell) -> _Kind:
    return cell.kind, cell.what, len(cell.hooks) > 1


def _weight(kind: _Kind) -> float:
    return _WEIGHTS[kind[0]] * (_CHAIN if kind[2] and kind[0] == "replace" else 1.0)
