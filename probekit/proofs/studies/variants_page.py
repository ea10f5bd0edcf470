"""What docs/studies/variants.md shows, made from its findings: tables, verdicts, correlations, two pictures."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probekit.proofs.studies.drawn import INK, begun, words
from probekit.proofs.studies.kept import interval
from probekit.proofs.studies.variants import (
    BEHAVIOUR,
    GONE,
    HIGH,
    LOW,
    READ,
    ROWS,
    RULE,
    RULES,
    STAYS,
    VariantsFindings,
)
from probekit.results.text import number
from probekit.testbeds.variants import CONTROLS, ENOUGH, EQUALITY, VARIANTS, Variant

TITLES = {
    "carried": "T from a plain network to a variant (0: all carries over, 1: nothing does)",
    "first": "The same one layer on, where not every variant has the sum (absent: next to none of it is there)",
    "equal": "The same of networks that say whether two pairs of vectors are alike",
    "equalstays": "What stays of these",
    "claims": f"What stays: variants whose T is at most {number(STAYS, 1)}, is more, or cannot be told",
    "learned": "Rows that were not trained on, answered rightly",
    "spread": "Rank correlation with the share of unseen pairs that are added rightly, a network each",
}
SHORT = dict(zip(ROWS, ("neurons", "turned", "affine", "simple", "function", "form", "rule", "behav."), strict=True))
# Of networks that generalise more or less: what a level leaves in the network itself.
LEFT = {"directions": "directions", RULE: "stated rule"}
ABSENT = "absent"
Told = dict[tuple[str, str], dict[str, Any]]


def cells(found: VariantsFindings, site: str = "", family: Mapping[str, Variant] = VARIANTS) -> Told:
    """(variant, name of ROWS) -> its row of the frame; at one site, or each where ROWS says when empty.

    family: VARIANTS, or EQUALITY, whose rule is another one.

    `absent` of a row: the form of directions explains next to nothing there, so that T is of next to nothing.
    """
    by_place = {(row["variant"], row["site"], row["level"], row["arm"]): row for row in found.frame.to_dict("records")}
    out: Told = {}
    for variant, made_of in family.items():
        for name, (where, level, arm) in ROWS.items():
            level = f"hypothesis:{RULES[made_of.problem].name}" if level == RULE else level
            row = by_place.get((variant, site or where, level, arm))
            form = by_place.get((variant, site or where, "directions", "refit"))
            if row is not None:
                gone = form is not None and _known(form["value"]) and form["value"] > GONE
                out[variant, name] = row | {ABSENT: gone and level in READ and arm != "refit"}
    return out


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def verdict(row: dict[str, Any]) -> str:
    """`stays`, `lost`, `open`, `absent` or `NA`."""
    if row.get(ABSENT):
        return ABSENT
    if not _known(row["value"]) or not _known(row["high"]):
        return "NA"
    return "stays" if row["high"] <= STAYS else "lost" if row["low"] > STAYS else "open"


def tables(found: VariantsFindings) -> dict[str, pd.DataFrame]:
    """The tables of the page, as text."""
    made = {
        "carried": _by_variant(cells(found), list(ROWS)),
        "first": _by_variant(cells(found, "first"), [n for n, (_, level, _) in ROWS.items() if level == "directions"]),
    }
    made["claims"] = claims(found)
    equal = cells(found, family=EQUALITY)
    if equal:
        made |= {"equal": _by_variant(equal, list(ROWS), EQUALITY), "equalstays": claims(found, EQUALITY)}
    made["learned"] = pd.DataFrame([
        {"networks": name, "changed": one.changed, "trained": len(found.learned[name]),
         "able": sum(v >= ENOUGH for v in found.learned[name]), "least": number(min(found.learned[name]), 3),
         "most": number(max(found.learned[name]), 3)}
        for name, one in (VARIANTS | EQUALITY).items() if name in found.learned
    ])  # fmt: skip
    if found.spread:
        made["spread"] = pd.DataFrame(list(correlations(found)))
    return made


def page_tables(found: VariantsFindings) -> dict[str, pd.DataFrame]:
    """The same, and the intervals that a terminal has no room for."""
    made = tables(found)
    for table, family in (("intervals", VARIANTS), ("equalintervals", EQUALITY)):
        told, rows = cells(found, family=family), []
        for variant in family:
            mine = {name: told[variant, name] for name in ROWS if (variant, name) in told}
            if mine:
                rows.append({"variant": short(variant)} | {name: _interval(row) for name, row in mine.items()})
        if rows:
            made[table] = pd.DataFrame(rows)
    return made


def short(variant: str) -> str:
    """What networks of either task are called beside others of the same."""
    return variant.removeprefix("equal-")


def _interval(row: dict[str, Any]) -> str:
    return _cell_text(row) if verdict(row) in ("NA", ABSENT) else interval(row)


def _cell_text(row: dict[str, Any] | None) -> str:
    return "NA" if row is None else ABSENT if row[ABSENT] else number(row["value"])


def _by_variant(told: Told, names: Sequence[str], family: Mapping[str, Variant] = VARIANTS) -> pd.DataFrame:
    rows = []
    for variant in family:
        some = [told[variant, name] for name in names if (variant, name) in told]
        if some:
            texts = {SHORT[name]: _cell_text(told.get((variant, name))) for name in names}
            rows.append({"variant": short(variant)} | texts | {"CKA": number(some[0]["cka"]),
                                                               "n": int(some[0]["pairs"])})  # fmt: skip
    return pd.DataFrame(rows)


def claims(found: VariantsFindings, family: Mapping[str, Variant] = VARIANTS) -> pd.DataFrame:
    """Of each level how many variants keep it, lose it, or do neither for sure; and what it is to the controls."""
    told, rows = {(short(v), name): row for (v, name), row in cells(found, family=family).items()}, []
    for name in ROWS:
        said = {v: verdict(row) for (v, level), row in told.items() if level == name}
        words = [said[v] for v in said if v not in CONTROLS]
        values = [told[v, name]["value"] for v in said if v not in CONTROLS and said[v] not in ("NA", ABSENT)]
        count = {word: words.count(word) for word in ("stays", "lost", "open")}
        count["other"] = len(words) - sum(count.values())
        spread = f"{number(min(values))} to {number(max(values))}" if values else ""
        rows.append({"level": name, **count, "T": spread} | {v: said.get(v, "NA") for v in CONTROLS})
    return pd.DataFrame(rows)


def claim_holds(found: VariantsFindings) -> dict[str, bool]:
    """`high`: every variant keeps all of HIGH; `low`: every one loses all of LOW; `beyond`: no control keeps HIGH."""
    said = {place: verdict(row) for place, row in cells(found).items()}
    able = [v for v in VARIANTS if v not in CONTROLS and (v, HIGH[0]) in said]
    return {
        "high": all(said[v, name] == "stays" for v in able for name in HIGH),
        "low": all(said[v, name] == "lost" for v in able for name in LOW),
        "beyond": all(any(said.get((v, name)) == "lost" for name in HIGH) for v in CONTROLS),
    }


# Networks that generalise more or less --------------------------------------------------------------------------------


def correlations(found: VariantsFindings) -> Iterator[dict[str, Any]]:
    """Spearman's correlation of accuracy on unseen pairs with what a level leaves, and with T from a plain network."""
    rows = found.scattered
    for level, name in LEFT.items():
        yield {"of": "left in the network", "level": name} | _correlated(_of(rows, level, "function"), "left")
    for name, (where, level, arm) in ROWS.items():
        if where == "first" or level == "directions":  # networks of many accuracies are read behind the first layer
            yield {"of": "T from a plain one", "level": name} | _correlated(_of(rows, level, arm), "moved")


def _of(rows: pd.DataFrame, level: str, arm: str) -> pd.DataFrame:
    return rows.loc[(rows["level"] == level) & (rows["arm"] == arm)]


def _correlated(rows: pd.DataFrame, what: str) -> dict[str, Any]:
    """rho and its percentile interval: seeds are drawn, each with its network at every step that was kept."""
    known = rows.dropna(subset=[what])
    x, y = known["accuracy"].to_numpy(float), known[what].to_numpy(float)
    if len(known) < 20 or len(np.unique(y)) < 3:
        return {"n": len(known), "seeds": "", "rho": "NA", "interval": ""}
    seeds = known["name"].str.split("@").str[0] + known["network"].astype(str)
    member, names = pd.factorize(seeds)
    rng, n_seeds = np.random.default_rng(0), len(names)
    drawn = np.stack([np.bincount(rng.integers(n_seeds, size=n_seeds), minlength=n_seeds) for _ in range(1000)])
    low, high = np.nanquantile(_spearman(x, y, drawn[:, member]), [0.025, 0.975])
    return {"n": len(known), "seeds": n_seeds, "rho": number(_spearman(x, y, np.ones((1, len(x))))[0]),
            "interval": f"[{number(low)}, {number(high)}]"}  # fmt: skip


def _spearman(x: NDArray, y: NDArray, times: NDArray) -> NDArray[np.float64]:
    """Spearman's rho of rows [n] that come so many times, for each draw at once: times [draw, n] gives [draw].

    The rank of a value is the middle of its ties; NaN where a draw has one value alone.
    """
    share = times / times.sum(1, keepdims=True)
    ranks = []
    for values in (x, y):
        code = np.unique(values, return_inverse=True)[1]
        mass = share @ np.eye(code.max() + 1)[code]
        rank = (mass.cumsum(1) - mass / 2)[:, code]
        ranks.append(rank - (share * rank).sum(1, keepdims=True))
    cross, *spread = ((share * a * b).sum(1) for a, b in (ranks, ranks[:1] * 2, ranks[1:] * 2))
    scale = np.sqrt(spread[0] * spread[1])
    return np.where(scale > 1e-12, cross / np.maximum(scale, 1e-12), np.nan)


CELL_W, CELL_H, SIDE, TOP = 46, 30, 240, 150


def map_of(found: VariantsFindings) -> str:
    """T as an SVG: a row per level, a column per variant, a dot where it is at most STAYS with its interval."""
    told = cells(found)
    shown = [v for v in VARIANTS if any((v, name) in told for name in ROWS)]
    width, height = SIDE + CELL_W * len(shown) + 70, TOP + CELL_H * len(ROWS) + 60
    parts = [
        *begun(width, height),
        words(20, 28, "One sum, learned by many networks: what of a plain one holds in another?", size=18),
        words(20, 50, "Share that is lost on the way. Light: all carries over. Dark: nothing does.", "soft"),
    ]
    for j, variant in enumerate(shown):
        x = SIDE + CELL_W * (j + 0.5)
        parts.append(f'<g transform="rotate(-45 {x:.0f} {TOP - 8})">{words(x, TOP - 8, _named(variant))}</g>')
    for i, name in enumerate(ROWS):
        y = TOP + CELL_H * i
        parts.append(words(SIDE - 8, y + 20, name, anchor="end"))
        for j, variant in enumerate(shown):
            parts += _cell(SIDE + CELL_W * j, y, told.get((variant, name)))
    y = TOP + CELL_H * len(ROWS) + 26
    said = (
        f"A dot: at most {number(STAYS, 1)}, its interval over {found.pairs} pairs of networks included. The last two: "
        "controls."
    )
    return "\n".join([*parts, words(20, y, said, "soft"), "</svg>\n"])


def _named(variant: str) -> str:
    return "another seed" if variant == "plain" else variant


def _cell(x: float, y: float, row: dict[str, Any] | None) -> list[str]:
    if row is None or not _known(row["value"]) or row[ABSENT]:
        box = f'<rect x="{x}" y="{y}" width="{CELL_W - 2}" height="{CELL_H - 2}" fill="none" stroke="{INK["grid"]}"/>'
        return [box, words(x + CELL_W / 2, y + 19, _cell_text(row), "soft", "middle", 12)]
    depth = float(np.clip(row["value"], 0, 1))
    rgb = (round(a + (b - a) * depth) for a, b in zip((253, 240, 200), (30, 45, 90), strict=True))
    shade = "#" + "".join(f"{one:02x}" for one in rgb)
    title = f"{row['variant']}, {row['level']}, {row['arm']}: {interval(row)}"
    parts = [
        f'<rect x="{x}" y="{y}" width="{CELL_W - 2}" height="{CELL_H - 2}" fill="{shade}">'
        f"<title>{escape(title)}</title></rect>",
        f'<text x="{x + CELL_W / 2 - 1:.1f}" y="{y + 19:.1f}" fill="{"#fff" if depth > 0.5 else "#111"}" '
        f'text-anchor="middle" font-size="12">{number(row["value"])}</text>',
    ]
    if verdict(row) == "stays":
        parts.append(f'<circle cx="{x + CELL_W - 8}" cy="{y + 6}" r="2.5" fill="#111"/>')
    return parts


# title, level, arm, column of each panel
PANELS = (
    ("directions, in the network", "directions", "function", "left"),
    ("stated rule, in the network", RULE, "function", "left"),
    ("directions, from a plain one", "directions", "affine", "moved"),
    ("behaviour, from a plain one", BEHAVIOUR, "identity", "moved"),
)
PANEL, GAP, PANEL_TOP = 200, 60, 90


def scatter_of(found: VariantsFindings) -> str:
    """Each network by its accuracy on unseen pairs: what levels leave in it, what of a plain one is lost."""
    width, height = 60 + len(PANELS) * (PANEL + GAP), PANEL_TOP + PANEL + 70
    told = (
        "Share left unexplained, or lost, by the share of unseen pairs that are added rightly. Filled: a network each; "
        "rings: plain ones on their way."
    )
    parts = [
        *begun(width, height),
        words(20, 28, "Do descriptions leak less in networks that generalise?", size=18),
        words(20, 50, told, "soft"),
    ]
    rows = found.scattered
    for j, (title, level, arm, what) in enumerate(PANELS):
        mine = rows[(rows["level"] == level) & (rows["arm"] == arm)]
        parts += [
            *_panel(60 + j * (PANEL + GAP), title),
            *_points(mine.dropna(subset=[what]), what, 60 + j * (PANEL + GAP)),
        ]
    below = "share of unseen pairs that are added rightly; values above 1.1 are at the top edge"
    return "\n".join([*parts, words(60, height - 18, below, "soft"), "</svg>\n"])


def _panel(left: float, title: str) -> Iterator[str]:
    yield words(left, PANEL_TOP - 12, title)
    bottom = PANEL_TOP + PANEL
    yield f'<path d="M{left} {PANEL_TOP}V{bottom}H{left + PANEL}" fill="none" stroke="{INK["soft"]}"/>'
    for tick in (0, 0.5, 1):
        yield words(left - 6, bottom - tick * PANEL + 5, number(tick, 1), "soft", "end", 12)
        yield words(left + tick * PANEL, bottom + 18, number(tick, 1), "soft", "middle", 12)


def _points(rows: pd.DataFrame, what: str, left: float) -> Iterator[str]:
    for row in rows.to_dict("records"):
        x, y = left + row["accuracy"] * PANEL, PANEL_TOP + PANEL - float(np.clip(row[what], 0, 1.1)) * PANEL
        on_the_way = "@" in row["name"]
        fill = f'fill="none" stroke="{INK["soft"]}"' if on_the_way else f'fill="{INK["blue"]}" fill-opacity="0.6"'
        title = f"{row['name']} {row['network']}: {number(row[what])}"
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" {fill}><title>{escape(title)}</title></circle>'
