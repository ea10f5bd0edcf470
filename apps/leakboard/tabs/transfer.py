"""Transfer: does what was fitted on one domain hold on another?"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
import streamlit as st

from leakboard import link, state
from probekit.results import looks, selection, tables, text


def show(view: state.View) -> None:
    """The matrix of one level at one site, and the crossing test."""
    rows = view.frame[(view.frame["metric"] == "transfer") & (view.frame["behaviour"] == view.behaviour)]
    asked: dict = {"behaviour": view.behaviour, "position": view.position}
    if len(rows):
        arms = [arm for arm in selection.TRANSFER_ARMS if arm in set(rows["arm"])]
        hooks = selection.hooks(rows, "transfer")
        found = view.found
        default = found["hook"] if found is not None and found["hook"] in hooks else hooks[len(hooks) // 2]
        with st.container(horizontal=True):
            asked["arm"] = link.choose("Applied", arms, "applied", show=looks.arm_words, width=260)
            asked["hook"] = link.choose("At", hooks, "moved", default=default, show=selection.site_label, width=200)
            levels = selection.levels(rows, "transfer")
            asked["level"] = link.choose("Level", levels, "of", show=selection.vocabulary, width=200)
    state.chart(
        view,
        "transfer_matrix",
        "Rows are where it was fitted, columns where it was applied. T = 0 is as good as a reader fitted there, which "
        "the diagonal is by definition; T = 1 is no better than the floor there; above 1 it misleads. If 50 labels "
        "repair it, the calibration moved and not the direction.",
        **asked,
    )
    crossing = tables.crossing(view.frame, behaviour=view.behaviour, position=view.position)
    if len(crossing):
        st.subheader("Crossing test")
        st.caption(
            "Coarse but general: with everything frozen, does the coarser level lose at home and win away? Bits per "
            "example; below 0 the coarser level wins."
        )
        shown = crossing.assign(difference=[text.value_text(row) for _, row in crossing.iterrows()])
        columns = ["label", "site", "fit_domain", "test_domain", "difference"]
        st.dataframe(shown[columns], hide_index=True, width="stretch")
