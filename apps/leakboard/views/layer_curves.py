"""Layer curves: one line per level, with its interval and its controls."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import streamlit as st

from leakboard import state
from probekit.results import selection, text

st.title("Layer curves")
view = state.view()
mine = view.frame[(view.frame["behaviour"] == view.behaviour) & (view.frame["hook"] != "")]
metrics = [name for name in ("read", "replace") if (mine["metric"] == name).any()]
left, middle, right = st.columns([1, 1, 2])
with left:
    metric = state.pick(
        "Metric",
        metrics or ["read"],
        "metric",
        show={"read": "read: is it there?", "replace": "replace: does it run on it?"}.__getitem__,
    )
several = selection.ks(mine, metric)
with middle:
    k = (
        state.pick("k, for levels with several", several, "k", default=selection.default_k(mine, metric))
        if several
        else None
    )
available = [name for name in selection.levels(mine, metric) if name not in ("prior", "baseline")]
with right:
    wanted = st.multiselect(
        "Levels", available, key=f"levels-{metric}", format_func=selection.vocabulary, placeholder="all of them"
    )
arm = (
    next((a for a in ("single:matched", "single:random") if a in set(mine["arm"])), None)
    if metric == "replace"
    else None
)
levels = [*wanted, "baseline"] if wanted and "baseline" in set(mine["level"]) else wanted or None
state.chart(
    view,
    "layer_curves",
    "The first layer where a curve leaves its grey controls is where the behaviour becomes describable at that level; "
    "dark bands are 95 % intervals over groups for each site, light ones hold a whole curve at once.",
    **view.chosen,
    metric=metric,
    k=k,
    arm=arm,
    level=levels,
)
if metric == "read" and (line := text.selected_site(view.frame, **view.chosen)):
    st.caption(state.plain(line))
if len(selection.positions(view.frame, view.behaviour)) > 1:
    chosen = {"behaviour": view.behaviour, "domain": view.domain}
    left, _ = st.columns([1, 2])
    with left:
        level = state.pick("Level at every position", available, "level", default="linear", show=selection.vocabulary)
    state.chart(
        view,
        "by_position",
        "One level at every rule of positions, tested on the same groups: where the curves part, the behaviour is "
        "readable at one token before it is at the other.",
        **chosen,
        level=level,
    )
