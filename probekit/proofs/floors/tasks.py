"""The 113 binary tasks of SAE-Probes, read as data: their files out of a wheel or a folder, and the published AUCs.

Kantamneni et al. 2025, "Are Sparse Autoencoders Useful? A Case Study in Sparse Probing" (arXiv 2502.16681), MIT
licence. `published.csv` has, of each task, the test AUC of their logistic regression on Gemma-2-9B: results/
baseline_probes_gemma-2-9b/normal_settings, method `logreg`, of the repository JoshEngels/SAE-Probes (MIT).
The package is read and never imported: it wants an older TransformerLens.
"""

import csv
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput, nearest
from probekit.inputs.columns import read_columns

PACKAGE = "sae-probes==0.4.2"
INSIDE = "sae_probes/data/cleaned_data/"
TEXT, LABEL = "prompt", "target"


@cache
def published() -> dict[str, dict[str, float]]:
    """Task -> test AUC at `embedding`, `layer_9` and `layer_20`, in the order of the tasks' numbers."""
    with (Path(__file__).parent / "published.csv").open(encoding="utf-8", newline="") as lines:
        return {row.pop("task"): {at: float(auc) for at, auc in row.items()} for row in csv.DictReader(lines)}


@dataclass(frozen=True)
class Texts:
    """A task's rows. label [n]: 1 where the class comes second in alphabetical order."""

    texts: list[str]
    label: NDArray[np.int64]

    @property
    def number(self) -> NDArray[np.int64]:
        """Which text each row has [n]: many rows come several times."""
        return np.unique(np.array(self.texts, dtype=object), return_inverse=True)[1]

    @property
    def median_length(self) -> float:
        """Characters of the median text."""
        return float(np.median([len(text) for text in self.texts]))


def read_texts(folder: Path, task: str) -> Texts:
    """One task of a folder. Raises BadInput where the file is not there, or has not two classes."""
    columns = read_columns(file_of(folder, task), {TEXT: "text", LABEL: "label"})
    known, label = np.unique(columns.names(LABEL, "label"), return_inverse=True)
    if len(known) != 2:
        raise BadInput(f"{columns.path} has {len(known)} classes in column '{LABEL}': the tasks are binary.")
    return Texts(columns.present_as(str, TEXT, f"the text column '{TEXT}'", "a string"), label)


def file_of(folder: Path, task: str) -> Path:
    """Where a task's rows are."""
    return folder / f"{task}.csv.zst"


def chosen(only: Sequence[str]) -> list[str]:
    """The tasks asked for, all when there are none. Raises BadInput for one that does not exist."""
    for name in only:
        if name not in published():
            near = nearest(name, published())
            raise BadInput(f"no task '{name}' among the {len(published())} of {PACKAGE}. Did you mean '{near}'?")
    return [task for task in published() if not only or task in only]


def folder_of(data: Path | None, cache_folder: Path) -> Path:
    """The folder of all tasks' files. data: that folder, or a wheel; downloaded by pip when None.

    cache_folder: what a wheel has is laid out there, once. Raises BadInput where one of the 113 files is missing.
    """
    if data is not None and data.is_dir():
        found = data
    else:
        found = cache_folder / "cleaned_data"
        wheel = data or _downloaded(cache_folder)
        if not wheel.is_file():
            raise BadInput(f"no wheel and no folder {data}: give the wheel of {PACKAGE}, or its folder cleaned_data.")
        if data is not None or any(not file_of(found, task).is_file() for task in published()):
            _lay_out(wheel, found)
    missing = [task for task in published() if not file_of(found, task).is_file()]
    if missing:
        raise BadInput(f"{found} lacks {len(missing)} of {len(published())} tasks, the first {missing[0]}.csv.zst: "
                       f"give the wheel of {PACKAGE}, or its folder cleaned_data.")  # fmt: skip
    return found


def _downloaded(cache_folder: Path) -> Path:
    """The wheel, fetched by pip where it is not there."""
    cache_folder.mkdir(parents=True, exist_ok=True)
    if not (there := sorted(cache_folder.glob("sae_probes-*.whl"))):
        asked = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache_folder), PACKAGE]
        done = subprocess.run(asked, capture_output=True, encoding="utf-8", errors="replace")
        there = sorted(cache_folder.glob("sae_probes-*.whl"))
        if done.returncode or not there:
            said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise BadInput(f"{PACKAGE} could not be downloaded ({said}): fetch the wheel and give it as --data.")
    return there[-1]


def _lay_out(wheel: Path, folder: Path) -> None:
    """The tasks' files of a wheel in a folder, packed as they are."""
    try:
        with zipfile.ZipFile(wheel) as files:
            inside = set(files.namelist())
            folder.mkdir(parents=True, exist_ok=True)
            for task in published():
                name = INSIDE + file_of(Path(), task).name
                if name in inside:
                    part = folder / f"{task}.part"
                    part.write_bytes(files.read(name))
                    part.replace(file_of(folder, task))  # whole or not at all
    except zipfile.BadZipFile:
        raise BadInput(f"{wheel} is no wheel: give that of {PACKAGE}, or its folder cleaned_data.") from None
