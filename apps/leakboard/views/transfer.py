"""Transfer: does what was fitted on one domain hold on another?"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import streamlit as st

from leakboard import state
from probekit.results import selection as selection_of
from probekit.results import tables, text

st.title("Transfer")
view = state.view()
rows = view.frame[(view.frame["metric"] == "transfer") & (view.frame["behaviour"] == view.behaviour)]
selection: dict = {"behaviour": view.behaviour, "position": view.position}
if len(rows):
    left, middle, right = st.columns(3)
    arms = [arm for arm in selection_of.TRANSFER_ARMS if arm in set(rows["arm"])]
    words = {"raw": "as fitted", "refit": "after one temperature and intercepts", "platt50": "after 50 labels"}
    hooks = selection_of.hooks(rows, "transfer")
    with left:
        selection["arm"] = state.pick("Applied", arms, "applied", show=words.__getitem__)
    with middle:
        selection["hook"] = state.pick(
            "At", hooks, "hook", default=hooks[len(hooks) // 2], show=selection_of.site_label
        )
    with right:
        selection["level"] = state.pick(
            "Level", selection_of.levels(rows, "transfer"), "level", show=selection_of.vocabulary
        )
state.chart(
    view,
    "transfer_matrix",
    "Rows are where it was fitted, columns where it was applied. 0 is as good as fitting there; 1 is no better than "
    "the floor there. If 50 labels repair it, the calibration moved and not the direction.",
    **selection,
)
crossing = tables.crossing(view.frame, behaviour=view.behaviour, position=view.position)
if len(crossing):
    st.subheader("Crossing test")
    st.caption(
        "Coarse but general: with everything frozen, does the coarser level lose at home and win away? Bits per "
        "example; below 0 the coarser level wins."
    )
    shown = crossing.assign(difference=[text.value_text(row) for _, row in crossing.iterrows()])
    st.dataframe(shown[["label", "site", "fit_domain", "test_domain", "difference"]], hide_index=True, width="stretch")
