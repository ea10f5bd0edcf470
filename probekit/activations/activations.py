"""Activations: rows at hook points and what was observed beside them, read from a store when asked for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probekit.storage.memory import Memory
from probekit.storage.store import Store
from probekit.task import BehaviourSpec, Observations, named


class Sites(Mapping[str, Tensor]):
    """Hook point -> activations [n_rows, width], read and verified one at a time when asked for, never kept."""

    def __init__(self, store: Store | Memory, key: str, names: Sequence[str]) -> None:
        self._store, self._key, self._names = store, key, tuple(names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._store.read(self._key, name)

    def blocks(self, name: str, n_rows: int, size: int) -> Iterator[Tensor]:
        """The same rows `size` at a time, verified; no more of them is in memory."""
        if isinstance(self._store, Memory):
            yield from self[name].split(size)
            return
        for start in range(0, n_rows, size):
            yield self._store.gather(self._key, name, torch.arange(start, min(start + size, n_rows)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Activations:
    """sites: hook point -> [n_rows, width] in forward order. audit: what `check_model` found, and counts of tokens.

    laws: for each behaviour read off one forward pass, the function from logits [n, d_vocab] and the rows they are
    for [n] to its law [n, outcome]. behaviours: as they were asked, with the outcomes found for large laws.
    A site is read from the store, verified, each time it is asked for.

    >>> import numpy as np
    >>> import torch
    >>> import probekit as pk
    >>> rows = np.arange(6)
    >>> seen = pk.Observations(rows, 0 * rows, rows, np.full(6, "all"), behaviours={})
    >>> acts = pk.Activations({"blocks.0.hook_resid_post": torch.zeros(6, 4)}, seen, audit={})
    >>> acts.sites["blocks.0.hook_resid_post"].shape, acts.observations.domains
    (torch.Size([6, 4]), ['all'])
    """

    sites: Mapping[str, Tensor]
    observations: Observations
    audit: dict[str, Any]
    laws: Mapping[str, Callable[..., Tensor]] = field(default_factory=dict)
    behaviours: Sequence[BehaviourSpec] = ()

    def __repr__(self) -> str:
        names = list(self.sites)
        shown = ", ".join(names if len(names) <= 4 else [*names[:2], "...", names[-1]])
        return f"<Activations at {len(names)} hook points ({shown}) of {self.observations!r}>"

    def at(self, *places: str) -> "Activations":
        """The rows that any of these rules of positions names."""
        read = named(self.observations.rules, places, len(self.observations))
        rows = np.flatnonzero(read)

        def of_these(law: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda logits, at=None: law(logits) if at is None else law(logits, rows[at])

        return replace(
            self,
            sites=_Some(self.sites, torch.from_numpy(rows)),
            observations=self.observations.at(*places),
            laws={name: of_these(law) for name, law in self.laws.items()},
            behaviours=tuple(spec.rows(read) for spec in self.behaviours),
        )


class _Some(Mapping[str, Tensor]):
    """Some of the rows of every site, taken when asked for."""

    def __init__(self, sites: Mapping[str, Tensor], rows: Tensor) -> None:
        self._sites, self._rows = sites, rows

    def __getitem__(self, name: str) -> Tensor:
        return self._sites[name][self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)
