"""The study of use: what a chat model runs on when it says True or False.

`measure_used` runs the job `jobs/used.toml` on statements made here. docs/causal.md speaks of its numbers, which are
kept beside it as JSON.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false

import re
from pathlib import Path

import pandas as pd

from probekit.jobs.engines import Progress
from probekit.proofs.studies.kept import run_study, write_csv
from probekit.proofs.studies.statements import make_statements
from probekit.proofs.studies.truth import Findings, interval_of
from probekit.results.selection import hooks, site_label
from probekit.storage.runs import Run

SPEC = Path(__file__).parents[2] / "jobs" / "used.toml"
TITLES = {
    "used": "True or False: directions at the token before the answer, unexplained share",
    "steered": "True or False: a direction added in standard deviations, bits of log-odds",
}
_CITY = re.compile(r"The city of (.+) is in (.+)\.")
_SETS = {"own": "behaviour", "truth": "label:truth", "learned": "das", "random": "random", "nothing": "random"}
_ARMS = {"kept": "single:random", "erased": "necessity:resample", "interchanged": "iia"}


def write_cities(path: Path, share: float = 1.0) -> int:
    """Statements city, country, truth of the study of truth, as a CSV file; returns how many there are."""
    told = [(_CITY.fullmatch(text), truth) for text, truth, family, _ in make_statements(0, share) if family == "city"]
    rows = [(*found.groups(), "yes" if truth else "no") for found, truth in told if found]
    return write_csv(path, ("city", "country", "truth"), rows)


def measure_used(
    model: str | Path, folder: Path, *, root: Path, store: Path, share: float = 1.0, device: str = "cpu",
    n_sites: int = 3, n_workers: int = 1, progress: Progress | None = None,
) -> tuple[Run, Findings]:  # fmt: skip
    """The study of one model. folder: where the statements are written. share: of them.

    n_sites: layers, evenly spread, the last one among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n = write_cities(folder / "cities.csv", share)
    loaded, _, run = run_study(SPEC, model, folder, n_sites, device, root=root, store=store, n_workers=n_workers,
                               progress=progress)  # fmt: skip
    return run, findings(run, loaded.name, n)


def findings(run: Run, model: str, n: int) -> Findings:
    """What the page speaks of, of a finished run on n statements."""
    records = run.records
    read = (records["metric"] == "read") & (records["floor"] == "strong") & (records["control"] == "")
    return Findings.of(model, n, records[read | records["metric"].isin(["replace", "steer"])])


def tables(found: Findings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text: a row per site and direction, and per dose."""
    return {"used": _of_sets(found.frame, "says"), "steered": _steered(found.frame)}


def _of_sets(frame: pd.DataFrame, behaviour: str) -> pd.DataFrame:
    """What is read along each direction, and what is kept, erased and interchanged of the behaviour."""
    replaced = frame[(frame["metric"] == "replace") & (frame["behaviour"] == behaviour)]
    read = frame[(frame["metric"] == "read") & (frame["level"] == "directions") & (frame["source"] == "behaviour")]
    rows = []
    for hook in hooks(replaced, "replace"):
        here = replaced[replaced["hook"] == hook]
        for name, source in _SETS.items():
            mine = here[(here["source"] == source) & (here["k"] == (0 if name == "nothing" else 1))]
            mine = mine[mine["control"].isin(["", "random_directions"])]
            if mine.empty:
                continue
            of = {"own": behaviour, "truth": "truth"}.get(name)
            at = read[(read["hook"] == hook) & (read["behaviour"] == of) & (read["k"] == 1)]
            told = {what: interval_of(mine[mine["arm"] == arm]) for what, arm in _ARMS.items()}
            told = {what: "" if mine[mine["arm"] == _ARMS[what]].empty else cell for what, cell in told.items()}
            rows.append(
                {"site": site_label(hook), "direction": name, "read": "" if at.empty else interval_of(at)} | told
            )
    return pd.DataFrame(rows)


def _steered(frame: pd.DataFrame) -> pd.DataFrame:
    """Doses along the direction of the answer and that of truth, beside random ones, at each site."""
    steered = frame[frame["metric"] == "steer"]
    rows = []
    for hook in hooks(steered, "steer"):
        here = steered[steered["hook"] == hook]
        doses = dict.fromkeys(arm.partition(":")[2] for arm in here["arm"] if arm.startswith("effect:"))
        for dose in sorted(doses, key=float):
            cells = {}
            for name in ("own", "truth", "learned"):
                at = here[(here["source"] == _SETS[name]) & (here["control"] == "") & (here["arm"] == f"effect:{dose}")]
                cells[name] = interval_of(at) if len(at) else ""
            drawn = here[(here["control"] != "") & (here["source"] == "behaviour") & (here["arm"] == f"effect:{dose}")]
            rows.append({"site": site_label(hook), "dose": dose, **cells, "random": interval_of(drawn)})
    return pd.DataFrame(rows)
