"""The study of sizes: does what an abstraction leaves unexplained grow with the network?

Networks of several sizes learned the same small world. The same abstractions of each, a rule and a small function
on a direction, are held against contrasts of next tokens that nobody picked, under read and replace.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportReturnType=false

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probekit.jobs.engines import Progress
from probekit.jobs.runner import run_job
from probekit.proofs.studies.kept import Stored
from probekit.records import SAMPLED
from probekit.results.sampled import tail
from probekit.results.text import number
from probekit.spec import JobSpec
from probekit.testbeds import NAMES, TINY_WORLD

SIZES = tuple(name.removeprefix(TINY_WORLD) for name in NAMES if name.startswith(TINY_WORLD))
SITE = "blocks.2.hook_resid_post"  # of four blocks the third: behind the last one linear is the unembedding
RULE = "hypothesis:thought"
# What is compared: level, source and k of the records, by metric.
READ = {
    "rule": (RULE, "true", None),
    "rule, decoded": (RULE, "decoded", None),
    "simple": ("simple:quadratic", "joint", 1),
    "direction": ("directions", "behaviour", 1),
    "linear": ("linear", "behaviour", None),
}
REPLACED = {"rule, decoded": (RULE, "features", None), "direction": ("directions", "behaviour", 1)}
RULE_LESS_SIMPLE = {"read": ("rule", "simple"), "replace": ("rule, decoded", "direction")}
ARM = "single:random"
_DRAWS = 2_000
TITLES = {
    "picked": "The answer, a behaviour that somebody picked: share unexplained, read",
    "networks": "The networks, on stories held out",
    "leaks": "Share unexplained of sampled contrasts: median, mean with its interval over contrasts, worst tenth",
    "grows": "The largest network less the smallest, over the contrasts that both were asked for",
    "worst": "The worst contrasts of the simple function, read",
}


@dataclass(frozen=True)
class SizesSize:
    """contrasts: sampled behaviours of the smallest network, which all are asked for; stories of a task."""

    contrasts: int = 40
    stories: int = 250
    rows: int = 64

    def of(self, share: float) -> "SizesSize":
        """A share of the contrasts and of the stories."""
        return SizesSize(max(4, round(share * self.contrasts)), max(60, round(share * self.stories)), self.rows)


@dataclass(frozen=True)
class SizesFindings(Stored):
    """What the page speaks of. networks: weights and right answers of each size.

    rows: one per size, behaviour, metric and what is compared (`what`), with value, low, high and na_reason.
    """

    networks: dict[str, dict[str, float]]
    rows: tuple[dict[str, Any], ...]


def measure_sizes(
    root: Path, size: SizesSize | None = None, seed: int = 0, progress: Progress | None = None
) -> SizesFindings:
    """Run a job on every network, all below `root`: Interrupted on Ctrl-C, and the same call goes on."""
    size = size or SizesSize()
    networks, rows = {}, []
    for name in SIZES:
        run = run_job(job_of(name, size, seed), root=root, store=root / "activations", progress=progress)
        agrees = (run.manifest or {})["provenance"]["behaviours"]["answer"]["agrees"]
        networks[name] = _card(name) | {f"as_{label}": round(float(share), 4) for label, share in agrees.items()}
        rows += list(_listed(run.records, name))
    return SizesFindings(networks, tuple(rows))


def job_of(name: str, size: SizesSize, seed: int) -> JobSpec:
    """The job of one network: lean, since each of many behaviours is measured."""
    sampled = {"n": size.contrasts, "seed": seed}
    read = {
        "hooks": [SITE], "levels": ["baseline", "directions", "simple:quadratic", "linear"], "ks": [1],
        "simple_ks": [1], "controls": [], "floors": ["strong"], "outer_folds": 1, "inner_folds": 1,
        "n_permutations": 0, "extrapolate": False, "falls": False, "decomposition": False,
        "features": ["belief", "truth"],
    }  # fmt: skip
    kept = {"levels": ["directions"], "ks": [1], "labels": [], "arms": [ARM], "rows": size.rows,
            "donors": 8}  # fmt: skip
    task = {"testbed": f"tiny-world-{name}", "n_examples": size.stories, "sampled": sampled}
    asked = {"name": f"sizes-{name}", "task": task, "read": read, "replace": kept, "seed_data": seed}
    return JobSpec.check(asked, "study")


def _card(name: str) -> dict[str, float]:
    """What the figures beside a network's weights say of it: its width, and questions that it answers rightly."""
    from probekit.inputs.folders import bundled_folder

    folder = bundled_folder(f"tiny-world-{name}")
    assert folder is not None
    told = json.loads((folder / "checkpoints.json").read_text(encoding="utf-8"))
    last = {key: round(float(v), 4) for key, v in told["checkpoints"][-1].items() if key.startswith("right_")}
    return {"width": float(told["recipe"]["d_model"]), **last}


def _listed(records: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """Records of what is compared, a row each."""
    plain = records[(records["control"] == "") & (records["floor"] == "strong") & (records["hook"] == SITE)]
    out = []
    for metric, asked, arm in (("read", READ, ""), ("replace", REPLACED, ARM)):
        mine = plain[(plain["metric"] == metric) & (plain["arm"] == arm)]
        mine = mine[mine["fit_domain"] == mine["test_domain"]]
        for what, (level, source, k) in asked.items():
            found = mine[(mine["level"] == level) & (mine["source"] == source)]
            found = found if k is None else found[found["k"] == k]
            for row in found.to_dict("records"):
                told = {
                    key: None if pd.isna(row[key]) else round(float(row[key]), 4) for key in ("value", "low", "high")
                }
                out.append({"size": name, "behaviour": row["behaviour"], "metric": metric, "what": what}
                           | told | {"na_reason": row["na_reason"]})  # fmt: skip
    return out


# What is made of it ---------------------------------------------------------------------------------------------------


def tables(found: SizesFindings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text."""
    right = {"right_all": "right", "right_false_belief": "of false beliefs", "as_belief": "says what is thought",
             "as_truth": "says what is so"}  # fmt: skip
    networks = [
        {"network": name, "width": int(told["width"])}
        | {word: number(told[key]) for key, word in right.items() if key in told}
        for name, told in found.networks.items()
    ]
    made = {"networks": pd.DataFrame(networks), "picked": _picked(found), "leaks": _leaks(found)}
    made["worst"] = _worst(found)
    return made | ({"grows": pd.DataFrame(grows(found))} if len(found.networks) > 1 else {})


def _of_contrasts(found: SizesFindings) -> pd.DataFrame:
    frame = found.frame
    return frame[frame["behaviour"].str.startswith(SAMPLED)].dropna(subset="value")


def _picked(found: SizesFindings) -> pd.DataFrame:
    """The behaviour that somebody would pick: the answer."""
    frame = found.frame
    frame = frame[(frame["behaviour"] == "answer") & (frame["metric"] == "read")].dropna(subset="value")
    return pd.DataFrame([
        {"network": row["size"], "what": row["what"], "unexplained": _interval(row["value"], row["low"], row["high"])}
        for row in frame.to_dict("records")
    ])  # fmt: skip


def _leaks(found: SizesFindings) -> pd.DataFrame:
    rows = []
    for (metric, what, size), group in _of_contrasts(found).groupby(["metric", "what", "size"], sort=False):
        values = group["value"].to_numpy(dtype=float)
        value, low, high = over_contrasts(values)
        rows.append({"metric": metric, "what": what, "network": size, "n": len(values),
                     "median": number(np.median(values)), "mean": _interval(value, low, high),
                     "worst tenth": number(tail(values))})  # fmt: skip
    order = {name: i for i, name in enumerate((*READ, *REPLACED))}
    made = pd.DataFrame(rows)
    return made.sort_values(["metric", "what"], key=lambda c: c.map(order) if c.name == "what" else c, kind="stable")


def grows(found: SizesFindings) -> list[dict[str, Any]]:
    """Of each abstraction, and of the rule less the simple function: the largest network less the smallest."""
    frame, rows, sizes = _of_contrasts(found), [], list(found.networks)
    for metric, asked in (("read", READ), ("replace", REPLACED)):
        wide = frame[frame["metric"] == metric].pivot_table(index="behaviour", columns=["what", "size"], values="value")
        parts = {what: (what,) for what in asked} | {"rule less simple": RULE_LESS_SIMPLE[metric]}
        for label, names in parts.items():
            if not all((name, size) in wide for name in names for size in (sizes[0], sizes[-1])):
                continue
            small, large = (_less(wide, names, size) for size in (sizes[0], sizes[-1]))
            change = (large - small).dropna().to_numpy(dtype=float)
            rows.append({"metric": metric, "what": label, "n": len(change)} | _grown(change))
    return rows


def _less(wide: pd.DataFrame, names: tuple[str, ...], size: str) -> pd.Series:
    first = wide[names[0], size]
    return first if len(names) == 1 else first - wide[names[1], size]


def _grown(change: np.ndarray) -> dict[str, str]:
    if len(change) < 2:
        return {"change": "NA", "verdict": "open"}
    value, low, high = over_contrasts(change)
    verdict = "grows" if low > 0 else "falls" if high < 0 else "open"
    return {"change": _interval(value, low, high), "verdict": verdict}


def over_contrasts(values: np.ndarray) -> tuple[float, float, float]:
    """Mean, and percentiles of a bootstrap that draws contrasts: 95 %.

    >>> import numpy as np
    >>> from probekit.proofs.studies.sizes import over_contrasts
    >>> over_contrasts(np.array([0.5, 0.5, 0.5]))
    (0.5, 0.5, 0.5)
    """
    drawn = np.random.default_rng([len(values), 61]).integers(len(values), size=(_DRAWS, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def _interval(value: float, low: float, high: float) -> str:
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _worst(found: SizesFindings, most: int = 3) -> pd.DataFrame:
    frame = _of_contrasts(found)
    frame = frame[(frame["metric"] == "read") & (frame["what"] == "simple")]
    rows = []
    for size, group in frame.groupby("size", sort=False):
        for row in group.nlargest(most, "value").to_dict("records"):
            rows.append({"network": size, "contrast": row["behaviour"].removeprefix(SAMPLED),
                         "unexplained": _interval(row["value"], row["low"], row["high"])})  # fmt: skip
    return pd.DataFrame(rows)
