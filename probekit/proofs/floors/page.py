"""What docs/floors.md shows, made from its results file: facts in words, a table, a picture."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from probekit.proofs.studies.drawn import INK, begun, words
from probekit.results.text import markdown

NEAR = 0.02  # of AUC: as good as, for whoever reports two figures
WIDTH, HEIGHT, LEFT, TOP, SIDE = 720, 736, 74, 64, 600
LEAST = 0.45  # where both axes begin
# Tasks that the picture names, and where the name stands: (right of the point, below it).
NAMED = {
    "36_sciq_tf": (1, 0),
    "44_phys_tf": (1, 0),
    "47_reasoning_tf": (1, 0),
    "54_cs_tf": (1, 0),
    "7_hist_fig_ispolitician": (1, 0),
    "106_hate_hate": (1, 1),
    "115_nyc_borough_Brooklyn": (1, 0),
    "116_nyc_borough_Bronx": (1, 0),
    "152_it_tick_Hardware": (0, 0),
    "145_disease_class_digestive system diseases": (1, 0),
    "87_glue_cola": (1, 0),
}


def facts(rows: pd.DataFrame) -> dict[str, str]:
    """What is said of all tasks together, each figure as it is written. rows: one per task, as `judged` gives them."""
    gap, unseen = rows["layer_20"] - rows["floor"], rows["floor_unseen"].notna()
    twice = 1 - rows["n_texts"] / rows["n_rows"]
    said = {
        "tasks": f"{len(rows)}",
        "mean floor": _auc(rows["floor"].mean()),
        "median floor": _auc(rows["floor"].median()),
        **{f"mean {at}": _auc(rows[at].mean()) for at in ("embedding", "layer_9", "layer_20")},
        "near": f"{int((gap <= NEAR).sum())} of {len(rows)}",
        "as good": f"{int((gap <= 0).sum())} of {len(rows)}",
        "beyond": f"{int((gap > 0.1).sum())} of {len(rows)}",
        "low floor": f"{int((rows['floor'] < 0.7).sum())}",
        "above embedding": f"{int((rows['floor'] > rows['embedding']).sum())} of {len(rows)}",
        "share": _percent((rows["floor"].mean() - 0.5) / (rows["layer_20"].mean() - 0.5)),
        "spread": _auc(rows["sd"].mean()),
        "largest spread": _auc(rows["sd"].max()),
        "all trained": f"{int((rows['n_trained'] == 1_024).sum())} of {len(rows)}",
        "fewest trained": f"{int(rows['n_trained'].min()):,}",
        "fewest tested": f"{int(rows['n_test'].min()):,}",
        "repeated": _percent(twice.median()),
        "most repeated": _percent(twice.max()),
        "with repeats": f"{int((twice > 0.05).sum())} of {len(rows)}",
        "seen": _percent(1 - rows["unseen"].mean()),
        "mean unseen": _auc(rows.loc[unseen, "floor_unseen"].mean()),
        **{
            f"{what} TX": _auc(row[name])
            for what, name in (("floor", "floor"), ("unseen", "floor_unseen"))
            for row in rows[rows["task"] == "119_us_state_TX"].to_dict("records")
        },
    }
    read = rows[rows["n"].notna()] if "n" in rows else rows[:0]
    return said | (_facts_of_model(read) if len(read) else {})


def _facts_of_model(read: pd.DataFrame) -> dict[str, str]:
    rows = read[read["fbu"].notna()]
    nothing = rows["high"] >= 1
    return {
        "model tasks": f"{len(read)}",
        "model rows": f"{int(read['n'].max()):,}",
        "known": f"{len(read) - len(rows)} of {len(read)}",
        "model floor": _auc(rows["floor_auroc"].mean()),
        "model probe": _auc(rows["auroc"].mean()),
        "floor above": f"{int((rows['floor_auroc'] >= rows['auroc']).sum())}",
        "nothing left": f"{int(nothing.sum())} of {len(read)}",
        "something": f"{int((~nothing).sum())} of {len(read)}",
        "fooled": f"{int((nothing & (rows['auroc'] >= 0.7)).sum())}",
        "least fbu": f"{rows['fbu'].min():.2f}",
        "least fbu of": str(rows.loc[rows["fbu"].idxmin(), "task"]),
    }


def model_table(rows: pd.DataFrame) -> str:
    """The tasks that a model read, as a table in Markdown."""
    out = []
    for row in rows[rows["n"].notna()].sort_values("length", kind="stable").to_dict("records"):
        known = pd.notna(row["fbu"])
        value, interval = (f"{row['fbu']:.2f}", f"{row['low']:.2f} to {row['high']:.2f}") if known else ("NA", "")
        name = row["task"].replace("_", " ")
        cells = (name, f"{int(row['n']):,}", f"{int(row['groups']):,}", _auc(row["floor_auroc"]), _auc(row["auroc"]))
        out.append((*cells, value, interval))
    return markdown(["task", "rows", "texts", "floor AUROC", "probe AUROC", "FBU", "95 %"], out)


def text_table(rows: pd.DataFrame) -> str:
    """All tasks, as a table in Markdown: the floor, its spread, what is left of it on unseen texts, and published."""
    figures = ("floor", "sd", "floor_unseen", "embedding", "layer_9", "layer_20")
    columns = ["task", "floor", "sd", "unseen texts", "embedding", "layer 9", "layer 20"]
    cells = ((row["task"].replace("_", " "), *(_auc(row[name]) for name in figures)) for row in rows.to_dict("records"))
    return markdown(columns, cells)


def _auc(value: float) -> str:
    return "NA" if np.isnan(value) else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def scatter(rows: pd.DataFrame) -> str:
    """All tasks as points, the floor across and layer 20 up, as SVG on the light ground of the figures."""
    parts = [
        *begun(WIDTH, HEIGHT),
        words(LEFT, 28, f"{len(rows)} probing tasks: the text alone, and layer 20 of Gemma-2-9B", size=19),
        words(LEFT, 49, "test AUC. On the line, and below it, the probe finds no more than the text says.", "soft"),
        *_axes(),
        *_points(rows),
    ]
    return "\n".join([*parts, "</svg>\n"])


def _at(across: float, up: float) -> tuple[float, float]:
    scale = SIDE / (1 - LEAST)
    return LEFT + (max(across, LEAST) - LEAST) * scale, TOP + SIDE - (max(up, LEAST) - LEAST) * scale


def _axes() -> list[str]:
    parts = []
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        (x, bottom), (left, y) = _at(tick, LEAST), _at(LEAST, tick)
        parts += [
            f'<path d="M{x:.1f} {TOP}V{bottom:.1f}M{left:.1f} {y:.1f}H{LEFT + SIDE}" stroke="{INK["grid"]}"/>',
            words(x, bottom + 20, f"{tick:.1f}", "soft", "middle"),
            words(left - 10, y + 5, f"{tick:.1f}", "soft", "end"),
        ]
    below = "AUC of the text floor, mean of five splits; bars: one sd between splits"
    (x, y), (right, top), near = _at(LEAST, LEAST), _at(1, 1), NEAR * SIDE / (1 - LEAST)
    parts += [
        f'<path d="M{x:.1f} {y:.1f}V{y - near:.1f}L{right - near:.1f} {top:.1f}H{right:.1f}Z" fill="{INK["band"]}" '
        'fill-opacity="0.16"/>',
        f'<path d="M{x:.1f} {y:.1f}L{right:.1f} {top:.1f}" stroke="{INK["soft"]}" stroke-dasharray="5 4"/>',
        words(LEFT + SIDE / 2, TOP + SIDE + 46, below, anchor="middle"),
        words(22, TOP + SIDE / 2, "published AUC of a probe at layer 20", anchor="middle", turned=True),
    ]
    return parts


def _points(rows: pd.DataFrame) -> list[str]:
    parts, names = [], []
    for row in rows.to_dict("records"):
        x, y = _at(row["floor"], row["layer_20"])
        spread = row["sd"] if row["sd"] == row["sd"] else 0.0
        (low, _), (high, _) = _at(row["floor"] - spread, 1), _at(min(1.0, row["floor"] + spread), 1)
        near = row["layer_20"] - row["floor"] <= NEAR
        fill = f'fill="{INK["red"]}" fill-opacity="0.55"' if near else f'fill="{INK["blue"]}" fill-opacity="0.55"'
        title = f"{row['task']}: text {row['floor']:.3f}, layer 20 {row['layer_20']:.3f}"
        parts.append(f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="{INK["band"]}" stroke-opacity="0.5"/>')
        mark = (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {fill}>' if not near else
                f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6Z" {fill}>')  # fmt: skip
        parts.append(f"{mark}<title>{escape(title)}</title></{'path' if near else 'circle'}>")
        if row["task"] in NAMED:
            right, below = NAMED[row["task"]]
            said = row["task"].partition("_")[2].replace("_", " ")
            names.append(words(x + (9 if right else -9), y + (15 if below else 4), said, "soft",
                                "start" if right else "end", 12))  # fmt: skip
    n_near = int((rows["layer_20"] - rows["floor"] <= NEAR).sum())
    key_x, key_y = _at(0.69, 0.53)
    parts += [
        f'<path d="M{key_x:.1f} {key_y - 6:.1f}l6 6l-6 6l-6 -6Z" fill="{INK["red"]}" fill-opacity="0.55"/>',
        words(key_x + 14, key_y + 5, f"within .02 of the text, or below it: {n_near}"),
        f'<circle cx="{key_x:.1f}" cy="{key_y + 24:.1f}" r="5" fill="{INK["blue"]}" fill-opacity="0.55"/>',
        words(key_x + 14, key_y + 29, f"the probe finds more: {len(rows) - n_near}"),
    ]
    return [*parts, *names]


def results(text: pd.DataFrame, model: pd.DataFrame | None = None) -> pd.DataFrame:
    """The results file: a row per task, with what the model's part has of it beside the text's."""
    return text if model is None else text.merge(model.drop(columns="length"), on="task", how="left")


def write_results(found: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Write floors.csv, and floors.svg from what it then holds, which is returned: figures are those of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    found.to_csv(folder / "floors.csv", index=False, float_format="%.4f")
    kept = pd.read_csv(folder / "floors.csv")
    (folder / "floors.svg").write_text(scatter(kept), encoding="utf-8")
    return kept
