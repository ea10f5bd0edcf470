"""The frontier: what a description explains for its complexity, when the model has to run on it."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import streamlit as st

from leakboard import state
from probekit.results import selection as selection_of

st.title("Frontier")
view = state.view()
rows = view.frame[(view.frame["metric"] == "replace") & (view.frame["behaviour"] == view.behaviour)]
arms = [arm for arm in selection_of.REPLACE_ARMS if arm in set(rows["arm"])]
names = {
    "chain": "all sites",
    "single": "one site",
    "random": "random donors",
    "matched": "matched donors",
    "pair": "per donor",
}
selection: dict = dict(view.chosen)
if arms:
    left, right = st.columns(2)
    with left:
        preferred = next((arm for arm in ("chain:matched", "chain:random", "single:matched") if arm in arms), arms[0])
        arm = state.pick(
            "Replaced", arms, "replaced", default=preferred, show=lambda a: ", ".join(names[p] for p in a.split(":"))
        )
    selection["arm"] = arm
    if arm.startswith("single"):
        hooks = selection_of.hooks(rows, "replace", arm)
        with right:
            selection["hook"] = state.pick(
                "At", hooks, "hook", default=hooks[len(hooks) // 2], show=selection_of.site_label
            )
state.chart(
    view,
    "frontier",
    "Lower is better and further left is simpler: a line is one vocabulary, kept while everything else is "
    "resampled. The gap between solid and dashed is what does not hold in unseen situations; the gap to the thin line "
    "is what is readable but not used.",
    **selection,
)
