"""The demo's opening, a behaviour that two directions decide exactly and three usual methods miss (plant P2), and the
three sentences that it ends in.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.jobs.measure import measure
from probekit.results.selection import hooks, site_label, unembedding
from probekit.results.text import number, value_text
from probekit.testbeds.ground_truth import draw

N = 6_000
LEVELS = ("linear", "simple:one_threshold", "simple:two_thresholds", "simple:quadratic")


@dataclass(frozen=True)
class Xor:
    """What each method says of behaviour = s1 XOR s2, both written along directions: shares unexplained, but for two.

    accuracy: of the best threshold, a share of rows; changed: how far linear erasure moves activations, in spreads.
    """

    accuracy: float
    linear: float
    changed: float
    after: float
    one_threshold: float
    two_thresholds: float
    quadratic: float

    def table(self) -> pd.DataFrame:
        """Rows of (method, what it says, figure)."""
        rows = [
            (
                "accuracy of the best threshold",
                "three quarters right: it is mostly there",
                f"{self.accuracy:.2f} right",
            ),
            ("linear probe", "absent: it adds nothing", f"{self.linear:.2f} unexplained"),
            ("linear erasure", "nothing to erase: activations hardly move", f"{self.changed:.3f} changed"),
            ("two thresholds, read after erasure", "still all of it", f"{self.after:.2f} unexplained"),
            ("one threshold on a fitted direction", "a part, in bits", f"{self.one_threshold:.2f} unexplained"),
            ("two thresholds on a fitted direction", "all of it", f"{self.two_thresholds:.2f} unexplained"),
            ("a quadratic of a fitted direction", "all of it", f"{self.quadratic:.2f} unexplained"),
        ]
        return pd.DataFrame(rows, columns=["method", "what it says", "figure"])


def measure_xor() -> Xor:
    """The opening, measured."""
    planted = draw("P2", N, d=16)
    x, law = planted.activations, planted.law
    options = {
        "ks": (1,), "simple_ks": (1,), "decomposition": False, "controls": (), "floors": ("strong",),
        "n_permutations": 0, "extrapolate": False, "outer_folds": 1, "inner_folds": 1, "falls": False,
    }  # fmt: skip
    found = measure(x, behaviour=law, levels=LEVELS, **options)
    found = found[found["metric"] == "read"].set_index("level")["value"]
    erased = erase_linearly(x, law[:, 1])
    after = measure(erased, behaviour=law, levels=("simple:two_thresholds",), **options)
    return Xor(
        accuracy=best_threshold_accuracy(x, law[:, 1], planted.signs),
        changed=float(np.abs(erased - x).std() / x.std()),
        after=float(after["value"].iloc[0]),
        linear=float(found["linear"]),
        **{name: float(found[f"simple:{name}"]) for name in ("one_threshold", "two_thresholds", "quadratic")},
    )


def closing(xor: Xor, records: pd.DataFrame) -> tuple[str, str, str]:
    """What XOR fooled, what the map of Othello shows, what to look at next; every figure is of this run.

    records: of the demo's job. The site spoken of is the middle one, which no value chose.
    """
    law = records[(records["behaviour"] == "next_move_law") & (records["fit_domain"] == records["test_domain"])]
    law = law[(law["control"] == "") & (law["fit_domain"] == records["fit_domain"].iloc[0])]
    read = law[(law["metric"] == "read") & (law["floor"] == "strong")]
    sites = hooks(read)
    middle, last = sites[len(sites) // 2], unembedding(records, "next_move_law")
    linear = read[read["level"] == "linear"].set_index("hook")["value"]
    decoded = read[(read["level"] == "hypothesis:rules") & (read["source"] == "decoded")].set_index("hook")["value"]
    before = linear.drop(last, errors="ignore")
    any_line = (
        "" if decoded[middle] >= before.min() else f", and none before the unembedding less than {number(before.min())}"
    )
    strong = float((read["floor_bits"] - read["ceiling_bits"]).iloc[0])
    of_weak = law[(law["metric"] == "read") & (law["floor"] == "weak")]
    weak = float((of_weak["floor_bits"] - of_weak["ceiling_bits"]).iloc[0])
    return (
        f"XOR fooled three usual methods: the best threshold is right in {xor.accuracy:.0%} of rows, so it seems "
        f"mostly there; a linear probe leaves {number(xor.linear)} unexplained, so it seems absent; linear erasure "
        f"finds nothing to erase; yet two thresholds on one direction leave {number(xor.two_thresholds)}.",
        f"In Othello the board is there as directions (at {site_label(middle)} a line reads mine, yours or empty of a "
        f"square with {_accuracy(records, 'mine_yours', middle):.0%} accuracy, black or white with "
        f"{_accuracy(records, 'black_white', middle):.0%}); the rules of the game on top of that board leave "
        f"{number(decoded[middle])} of the next move unexplained, a linear reader of the same site "
        f"{number(linear[middle])}{any_line}; and of the {weak:.2f} bits that a weak floor, the position alone, would "
        f"credit to the network, {1 - strong / weak:.0%} are in the moves.",
        _next(law),
    )


def _accuracy(records: pd.DataFrame, feature: str, hook: str) -> float:
    rows = records[(records["metric"] == "accuracy") & (records["behaviour"] == f"feature:{feature}")]
    return float(
        rows.loc[(rows["hook"] == hook) & (rows["level"] == "linear") & (rows["control"] == ""), "value"].iloc[0]
    )


def _next(law: pd.DataFrame) -> str:
    """Replace, where the demo has it: what can be read is not what the network runs on."""
    kept = law[(law["metric"] == "replace") & (law["arm"] == "chain:matched") & (law["level"] == "directions")]
    kept = kept[kept["source"] == "behaviour"]
    said = ""
    if len(kept):
        most = kept.sort_values("k").iloc[-1]
        what = f"the {int(most['k'])} directions that read best, kept alone at all sites"
        said = f" ({what}, leave {value_text(most)} unexplained)"
    return (
        f"Look next at what the network runs on{said}: `probekit show latest --metric replace`; at the same in a "
        "browser: `probekit dashboard`; and at a model and a CSV of your own: `probekit run SPEC`."
    )


def best_threshold_accuracy(x: NDArray[np.float32], label: NDArray[np.float32], signs: NDArray[np.float64]) -> float:
    """Accuracy of the best single threshold on the direction s1 + s2."""
    direction = x.T @ signs.sum(1)
    value = x @ direction
    cuts = np.quantile(value, np.linspace(0.02, 0.98, 97))
    right = [(label == (value > cut)).mean() for cut in cuts]
    return float(max(max(right), 1 - min(right)))


def erase_linearly(x: NDArray[np.float32], label: NDArray[np.float32]) -> NDArray[np.float32]:
    """LEACE (Belrose et al. 2023) for one binary label: remove the whitened cross-covariance direction."""
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    cross = centred.T @ (label - label.mean()) / len(x)
    # Below two standard errors of an estimate from n rows a cross-covariance is sampling noise, which LEACE's
    # population formula has none of.
    standard = np.linalg.solve(np.linalg.cholesky(covariance), cross)
    if (standard**2).sum() <= 2 * x.shape[1] * label.var() / len(x):
        return x
    solved = np.linalg.solve(covariance, cross)
    return (x - np.outer(centred @ solved, cross) / (cross @ solved)).astype(np.float32)
