"""Studies that take no model, by name: how each is measured, and what is made of what it found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from probekit.jobs.engines import Progress
from probekit.proofs.studies import (
    belief,
    belief_page,
    compute,
    compute_page,
    equality,
    flip,
    foresight,
    foresight_words,
    ladder,
    metrics,
    sizes,
    training,
    training_page,
    variants,
    variants_page,
)
from probekit.proofs.studies.truth import filled

Measured = Callable[[Path, float, Progress], Any]  # (folder that parts are kept in, share of what is made, progress)


@dataclass(frozen=True)
class BundledStudy:
    """measure: the study; page: the module of its TITLES and `tables`; read: findings from their JSON file.

    beside: what JSON output says next to the rows, by the names that findings have for it. pictures: by what follows
    the name of the page in theirs.
    """

    measure: Measured
    page: ModuleType
    read: Callable[[Path], Any]
    beside: Sequence[str] = ()
    pictures: Mapping[str, Callable[[Any], str]] = field(default_factory=dict)

    def tables(self, found: Any) -> dict[str, pd.DataFrame]:
        """Those that a terminal has room for."""
        return self.page.tables(found)

    def page_tables(self, found: Any) -> dict[str, pd.DataFrame]:
        """Those of its page in docs, where there is room for more."""
        return getattr(self.page, "page_tables", self.page.tables)(found)

    def drawn(self, found: Any, file: Path) -> dict[Path, str]:
        """Its pictures, which lie beside the file of its numbers."""
        return {file.with_name(f"{file.stem}{name}.svg"): draw(found) for name, draw in self.pictures.items()}

    def pages(self, page: Path) -> dict[Path, str]:
        """A page with its tables and its pictures, as the numbers beside it have them."""
        found = self.read(page.with_suffix(".json"))
        text = filled(page.read_text(encoding="utf-8"), self.page_tables(found))
        return {page: text, **self.drawn(found, page)}


def _some(n: int, share: float, least: int = 2) -> int:
    return max(least, round(share * n))


def _equality(share: float) -> equality.EqualitySize:
    return equality.EqualitySize(networks=_some(equality.EqualitySize().networks, share))


def _metrics(share: float) -> metrics.MetricsSize:
    return metrics.MetricsSize(seeds=_some(metrics.MetricsSize().seeds, share))


def _variants(share: float) -> variants.VariantsSize:
    return variants.VariantsSize(pairs=_some(variants.VariantsSize().pairs, share), spread=share == 1)


def _training(share: float) -> training.TrainingSize:
    return training.TrainingSize() if share == 1 else training.TrainingSize(_some(5, share, 1), games=0, stories=0)


def _compute(share: float) -> compute.ComputeSize:
    whole = compute.ComputeSize()
    return (
        whole
        if share == 1
        else compute.ComputeSize(_some(5, share, 1), round(share * whole.games), round(share * whole.stories))
    )


def _belief(share: float) -> belief.BeliefSize:
    return belief.BeliefSize(networks=_some(belief.BeliefSize().networks, share))


# What is measured is looked up when it is asked for, so that a test may put something in its place.
ALONE: dict[str, BundledStudy] = {
    "equality": BundledStudy(
        lambda root, share, say: equality.measure_equality(root, _equality(share), progress=say),
        equality, equality.EqualityFindings.read, ("networks", "right"),
    ),
    "flip": BundledStudy(
        lambda _, share, say: flip.measure_flip(flip.FlipSize().of(share), progress=say),
        flip, flip.FlipFindings.read, ("cases", "games", "changed"),
    ),
    "metrics": BundledStudy(
        lambda _, share, say: metrics.measure_metrics(_metrics(share), progress=say),
        metrics, metrics.MetricsFindings.read, ("seeds",),
    ),
    "variants": BundledStudy(
        lambda root, share, say: variants.measure_variants(root, _variants(share), progress=say),
        variants_page, variants.VariantsFindings.read, ("pairs", "learned"),
        {"": variants_page.map_of, "-spread": variants_page.scatter_of},
    ),
    "training": BundledStudy(
        lambda root, share, say: training.measure_training(root, _training(share), progress=say),
        training_page, training.TrainingFindings.read, ("onsets", "learned"), {"": training_page.picture_of},
    ),
    "compute": BundledStudy(
        lambda root, share, say: compute.measure_compute(root, _compute(share), progress=say),
        compute_page, compute.ComputeFindings.read, (), {"": compute_page.picture_of},
    ),
    "belief": BundledStudy(
        lambda root, share, say: belief.measure_belief(root, _belief(share), progress=say),
        belief_page, belief.BeliefFindings.read, ("networks",), {"": belief_page.picture_of},
    ),
    "foresight": BundledStudy(
        lambda root, share, say: foresight_words.measure_both(root, foresight.ForesightSize().of(share), progress=say),
        foresight_words, foresight.ForesightFindings.read, ("learned",), {"": foresight.picture_of},
    ),
    "ladder": BundledStudy(
        lambda _, share, say: ladder.measure_ladder(ladder.LadderSize().of(share), progress=say),
        ladder, ladder.LadderFindings.read, ("weights",),
    ),
    "sizes": BundledStudy(
        lambda root, share, say: sizes.measure_sizes(root, sizes.SizesSize().of(share), progress=say),
        sizes, sizes.SizesFindings.read, ("networks",),
    ),
}  # fmt: skip
PAGES = ("variants", "training", "compute", "belief", "foresight", "ladder", "sizes")  # in docs/studies
