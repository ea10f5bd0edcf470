"""Ontology and floors: two choices of the analyst that can make or unmake a finding."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import streamlit as st

from leakboard import state
from probekit.results import selection, tables, text

st.title("Ontology and floors")
view = state.view()
accuracy = view.frame[view.frame["metric"] == "accuracy"]
fitted = list(accuracy["fit_domain"].unique())
state.chart(
    view,
    "ontology",
    "The same facts named in two ways: where a linear reader fails and a nonlinear one succeeds, the leak belongs to "
    "the words and not to the model.",
    domain=view.domain if view.domain in fitted else None,
    position=view.position,
)
both = view.frame[
    (view.frame["metric"] == "read") & (view.frame["behaviour"] == view.behaviour) & (view.frame["floor"] == "weak")
]
level = None
if len(both):
    left, _ = st.columns([1, 2])
    with left:
        levels = selection.levels(both)
        level = state.pick("Level", levels, "level", default="linear", show=selection.vocabulary)
state.chart(
    view,
    "floor_switch",
    "The same reader on two floors: the distance between the lines is input statistics that a weak floor would have "
    "counted as something the model knows.",
    **view.chosen,
    level=level,
)
gap = tables.group_leakage(view.frame, **view.chosen)
if len(gap):
    st.subheader("Split by row")
    st.caption(
        "The same reader with rows of a group on both sides of the split: the gap is what it would have claimed by "
        "remembering groups."
    )
    by_group = [text.value_text(row) for _, row in gap.iterrows()]
    shown = gap.assign(by_group=by_group, by_row=gap["value_by_row"])
    st.dataframe(shown[["site", "label", "by_group", "by_row", "gap"]], hide_index=True, width="stretch")
