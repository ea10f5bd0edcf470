"""The leak map: every hook point by every level, and everything behind one cell."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import pandas as pd
import streamlit as st

from leakboard import data, state
from probekit.results import looks, maps, tables, text
from probekit.results import selection as selection_of

st.title("Leak map")
view = state.view()
metrics = [name for name in ("read", "replace") if ((view.frame["metric"] == name) & (view.frame["hook"] != "")).any()]
left, middle, _ = st.columns([1, 1, 2])
with left:
    metric = state.pick(
        "Metric",
        metrics or ["read"],
        "metric",
        show=lambda m: {"read": "read: is it there?", "replace": "replace: does it run on it?"}[m],
    )
rows = view.frame[
    (view.frame["metric"] == metric) & (view.frame["behaviour"] == view.behaviour) & (view.frame["hook"] != "")
]
several = selection_of.ks(rows, metric)
with middle:
    k = (
        state.pick("k, for levels with several", [*several, "all"], "k", default=selection_of.default_k(rows, metric))
        if several
        else None
    )
arm = (
    next((a for a in ("single:matched", "single:random") if a in set(rows["arm"])), None)
    if metric == "replace"
    else None
)
selection = view.chosen | {"metric": metric, "k": k, "arm": arm}
table = tables.leak_map(view.frame, **selection)


def clicked() -> None:
    """A click on a cell moves the two selectboxes below; they are what the URL keeps."""
    points = st.session_state["map"]["selection"]["points"]
    if points and points[0].get("customdata"):
        _, hook, label = points[0]["customdata"][:3]
        st.session_state["hook"], st.session_state["cell"] = hook, label


caption = (
    "Dark is explained, bright is not. Read a row to see what it takes to describe the behaviour at that layer, "
    "a column to see where it appears. Click a cell, or choose it below."
)
with st.container(border=True):
    st.plotly_chart(
        maps.leak_map(view.frame, template=view.template, **selection),
        theme=None,
        config=looks.CONFIG,
        key="map",
        on_select=clicked,
        selection_mode="points",
        alt=caption,
    )
    st.caption(caption)
if table.empty:
    st.stop()

st.subheader("One cell")
hooks = list(table.sort_values("site_order")["hook"].unique())
labels = list(table.sort_values("level_order", kind="stable")["label"].unique())
left, right = st.columns(2)
with left:
    hook = state.pick("Hook point", hooks, "hook", default=hooks[-1], show=selection_of.site_label)
with right:
    label = state.pick("Level", labels, "cell", default="linear")
cell = table[(table["hook"] == hook) & (table["label"] == label)]
if cell.empty:
    st.text("This level was not measured at this hook point.")
    st.stop()
row = cell.iloc[0]


def bits(value: float) -> str:
    return "NA" if pd.isna(value) else f"{value:.3f}"


st.markdown(f"#### {state.plain(text.value_text(row))} unexplained")
if beside := text.beside_value(row):
    st.text(beside)
figures_of_cell = st.columns(7)
for column, (name, value, why) in zip(
    figures_of_cell,
    (
        ("floor, bits", bits(row["floor_bits"]), "Best reader of the input alone, bits per example."),
        ("reader, bits", bits(row["bits"]), "This level at this hook point, bits per example."),
        ("ceiling, bits", bits(row["ceiling_bits"]), "The model's own entropy, bits per example."),
        ("99th percentile", bits(row["p99_bits"]), "Missed bits: one example in a hundred is worse than this."),
        ("worst group", bits(row["worst_group"]), "Missed bits, mean over the worst group."),
        ("n", f"{row['n']:,}", "Test examples, or pairs for replace."),
        ("groups", f"{row['groups']:,}", "Independent groups behind the interval."),
    ),
    strict=True,
):
    column.metric(name, value, help=why)
if row["note"]:
    st.text(row["note"])

left, right = st.columns(2)
with left:
    st.markdown("**Controls beside it**")
    controls = view.frame[
        (view.frame["control"] != "")
        & (view.frame["metric"] == metric)
        & (view.frame["hook"] == hook)
        & (view.frame["behaviour"] == view.behaviour)
        & (view.frame["fit_domain"] == view.domain)
        & (view.frame["test_domain"] == view.domain)
        & (view.frame["position"] == view.position)
        & (view.frame["arm"] == row["arm"])
        & (view.frame["floor"] == row["floor"])
        & (view.frame["k"].isna() | view.frame["k"].isin([] if pd.isna(row["k"]) else [row["k"]]))
    ]
    if controls.empty:
        st.text("No control was run at this hook point.")
    else:
        st.dataframe(
            pd.DataFrame(
                {
                    "control": [looks.control_words(name) for name in controls["control"]],
                    "level": [selection_of.vocabulary(level) for level in controls["level"]],
                    "unexplained": [text.value_text(r) for _, r in controls.iterrows()],
                }
            ),
            hide_index=True,
            width="stretch",
        )
        st.caption(
            "Near 1, a control finds nothing where there is nothing; near the cell's value, the cell means little."
        )
with right:
    st.markdown("**Groups with the most missed bits**")
    behind = data.losses(view.run, row["id"])
    if behind.empty:
        st.text("No losses per group were kept for this cell.")
    else:
        shown = behind.head(8)[["group", "fbu", "numerator", "n"]]
        named = {"fbu": "unexplained", "numerator": "missed bits"}
        st.dataframe(shown, hide_index=True, width="stretch", column_config=named)
        st.caption(f"The worst of {len(behind)}: means hide the dangerous cases.")
state.numbers(table, f"{view.run.name}-leak_map")
