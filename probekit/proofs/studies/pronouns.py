"""The study of pronouns: whether a model says he or she, what reads it off the last token, and what it runs on there.

`measure_pronouns` runs the job `jobs/pronouns.toml` on sentences made here. docs/text.md speaks of its numbers, which
are kept beside it as JSON.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false

from pathlib import Path

import pandas as pd

from probekit.jobs.engines import Progress
from probekit.proofs.studies.kept import run_study, write_csv
from probekit.proofs.studies.truth import Findings, interval_of
from probekit.results.selection import hooks, site_label
from probekit.storage.runs import Run

SPEC = Path(__file__).parents[2] / "jobs" / "pronouns.toml"
_WOMEN = """Mary Anna Sarah Laura Emma Julia Alice Clara Diana Helen Susan Nancy Karen Linda Barbara Emily Rachel
Rebecca Hannah Olivia Sophie Lucy Grace Rose Martha Ruth Irene Janet Carol Judith Monica Victoria Charlotte Amelia
Isabella Teresa Margaret Elizabeth Catherine Patricia"""
_MEN = """John Peter David Paul Mark James Robert Michael William Thomas Richard George Edward Henry Charles Frank Simon
Daniel Andrew Philip Kevin Brian Steven Martin Oliver Harry Jack Samuel Benjamin Nathan Arthur Walter Albert Victor
Oscar Patrick Gregory Anthony Vincent Stephen"""
SHE, HE = _WOMEN.split(), _MEN.split()
TEMPLATES = ("{} said that", "Yesterday {} told me that", "{} was late because", "We like {} because")
COLUMNS = ("sentence", "name")
TITLES = {"kept": "Pronouns: share unexplained by what is read at the last token, and when only that is kept there"}


def write_sentences(path: Path, n_names: int = len(SHE)) -> int:
    """Rows of COLUMNS as a CSV file, of so many names of women and of men; returns how many there are."""
    names = (*SHE[:n_names], *HE[:n_names])
    return write_csv(path, COLUMNS, [(template.format(name), name) for name in names for template in TEMPLATES])


def measure_pronouns(
    model: str | Path, folder: Path, *, root: Path, store: Path, n_names: int = len(SHE), device: str = "cpu",
    n_sites: int = 3, n_workers: int = 1, progress: Progress | None = None,
) -> tuple[Run, Findings]:  # fmt: skip
    """The study of one model. folder: where the sentences are written. n_names: of women, and of men.

    n_sites: layers, evenly spread, the last one among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n = write_sentences(folder / "sentences.csv", n_names)
    loaded, _, run = run_study(SPEC, model, folder, n_sites, device, root=root, store=store, n_workers=n_workers,
                               progress=progress)  # fmt: skip
    records = run.records
    read = (records["metric"] == "read") & (records["floor"] == "strong")
    kept = (records["metric"] == "replace") & (records["arm"] == "single:random")
    return run, Findings.of(loaded.name, n, records[read | kept])


def tables(found: Findings) -> dict[str, pd.DataFrame]:
    """The table of the page, as text: a row per site."""
    frame = found.frame
    known = frame["k"].fillna(-1)
    read, kept = frame["metric"] == "read", frame["metric"] == "replace"
    own, drawn = frame["source"] == "behaviour", frame["control"] == "random_directions"
    columns = {
        "linear": read & own & (frame["level"] == "linear"),
        "one direction": read & own & (frame["level"] == "directions") & (known == 1),
        "kept alone": kept & own & (known == 1),
        "random one kept": kept & drawn & (known == 1),
        "nothing kept": kept & drawn & (known == 0),
    }
    rows = [
        {
            "site": site_label(hook),
            **{name: interval_of(frame[(frame["hook"] == hook) & at]) for name, at in columns.items()},
        }
        for hook in hooks(frame)
    ]
    return {"kept": pd.DataFrame(rows)}
