"""Layer curves: a line per level with its interval and controls; one level at every rule of positions."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
import streamlit as st

from leakboard import link, state
from probekit.results import looks, selection, text

WORDS = {"read": "read: is it there?", "replace": "replace: does it run on it?"}
FEW = 5  # lines that are drawn unless more are asked for


def few(levels: list[str]) -> list[str]:
    """The levels that most is asked of: directions, all of them linearly and otherwise, what was stated."""
    first = ("linear", "directions", "nonlinear", "direction")
    stated = [name for name in levels if name.startswith("hypothesis:")]
    simple = [name for name in levels if name.startswith("simple:")]
    ranked = [*(name for name in first if name in levels), *stated, *simple]
    kept = set(ranked[:FEW])
    return [name for name in levels if name in kept] or levels[:FEW]


def show(view: state.View) -> None:
    """All sites along the network, few levels at first."""
    frame = view.frame
    mine = frame[(frame["behaviour"] == view.behaviour) & (frame["hook"] != "")]
    metrics = [name for name in WORDS if (mine["metric"] == name).any()]
    with st.container(horizontal=True):
        metric = link.choose("Metric", metrics or ["read"], "along", show=WORDS.__getitem__, width=240)
        several = selection.ks(mine, metric)
        k = None
        if several:
            default = selection.default_k(mine, metric)
            k = link.choose("k, of levels with several", several, "k", default=default, width=180)
        arms = [arm for arm in selection.REPLACE_ARMS if arm.startswith("single:") and arm in set(mine["arm"])]
        arm = link.choose("Replaced", arms, "arm", show=looks.arm_words, width=220) if metric == "replace" else None
    there = [name for name in selection.levels(mine, metric) if name not in ("prior", "baseline")]
    wanted = link.choose_several("Levels", there, "levels", default=few(there), show=selection.vocabulary)
    state.chart(
        view,
        "layer_curves",
        "The first layer where a curve leaves its grey controls is where the behaviour becomes describable at that "
        "level; dark bands are 95 % intervals over groups for each site, light ones hold a whole curve at once. "
        "Hatched: no value there, and no line across.",
        **view.chosen,
        metric=metric,
        k=k if k in several else None,
        arm=arm,
        level=wanted or few(there),
    )
    if metric == "read" and (line := text.selected_site(frame, **view.chosen)):
        st.caption(state.plain(line))


def by_position(view: state.View) -> None:
    """One level at every token that was read."""
    if len(selection.positions(view.frame, view.behaviour)) < 2:
        st.text("All rows of this behaviour are read under one rule of positions, so there is nothing to compare.")
        st.code('[task]\npositions = ["last", "subject"]', language=None)
        return
    there = [name for name in selection.levels(view.read) if name not in ("prior", "baseline")]
    with st.container(horizontal=True):
        level = link.choose("Level", there, "level", default="linear", show=selection.vocabulary, width=220)
    state.chart(
        view,
        "by_position",
        "One level at every rule of positions, tested on the same groups: where the curves part, the behaviour is "
        "readable at one token before it is at the other.",
        behaviour=view.behaviour,
        domain=view.domain,
        level=level,
    )
