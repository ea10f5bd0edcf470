"""A run's home: what it found in three sentences, where, why, how far to trust it, and what would change it."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
import plotly.graph_objects as go
import streamlit as st

from leakboard import link, state
from probekit.results import details, figures, looks, selection, story, used
from probekit.storage.runs import run_before

NAMES = {"where": "Where", "why": "Why", "trust": "Trust", "since": "Since the last run"}
STAGE = {"map": "leak_map", "curves": "layer_curves", "frontier": "frontier", "floor": "floor_switch"}
SHOWN = {"map": "the map", "curves": "layer curves", "frontier": "the frontier", "floor": "both floors"}


def told(view: state.View) -> story.Story:
    """The sentences, with the unfinished and the few told beside them."""
    found = story.story(view.run, **view.chosen, previous=run_before(view.run))
    for i, sentence in enumerate(found.sentences):
        st.markdown(f"{'### ' if i == 0 else ''}{state.plain(sentence)}")
    for warning in found.headline.warnings:
        st.warning(state.plain(warning))
    return found


def strip(found: story.Story) -> None:
    """Four fields, and under each what fills it where it is empty."""
    for column, panel in zip(st.columns(4), found.strip, strict=True):
        with column, st.container(border=True):
            st.caption(NAMES[panel.name])
            st.markdown(f"**{state.plain(panel.title)}**")
            st.markdown(state.plain(panel.said))
            if panel.fill:
                st.code(panel.fill, language=None, wrap_lines=True)


def changes(found: story.Story) -> None:
    """The choices that could make it another finding: those that do first, then what was not measured."""
    if not found.changes:
        return
    st.subheader("What would change this")
    order = {True: 0, None: 1, False: 2}
    marks = {True: ":red-badge[reverses it]", None: ":gray-badge[not measured]", False: ":green-badge[holds]"}
    for change in sorted(found.changes, key=lambda one: order[one.reverses]):
        st.markdown(f"{marks[change.reverses]} **{state.plain(change.choice)}**: {state.plain(change.said)}")
        if change.fill:
            st.code(change.fill, language=None, wrap_lines=True)


def small(view: state.View, found: story.Story) -> None:
    """The frontier, or where nothing was replaced the curve along the network; and what k does where it was found."""
    replaced = (view.frame["metric"] == "replace") & (view.frame["behaviour"] == view.behaviour)
    kind = "frontier" if replaced.any() else "layer_curves"
    asked = view.chosen | ({} if kind == "frontier" else {"level": [*_few(view)]})
    with st.container(border=True):
        made = figures.figure(kind, view.frame, template=view.template, **asked)
        state.draw(made, "small", "What a description explains for its complexity: lower is better, left is simpler."
                   if kind == "frontier" else "What each level leaves unexplained along the network.")  # fmt: skip
    if found.found is not None and (by_k := details.by_k(view.frame, template=view.template, hook=found.found["hook"],
                                                         **view.chosen)) is not None:  # fmt: skip
        with st.expander("How it falls with k at the site of the finding"):
            state.draw(by_k, "by-k", "More directions explain more; grey is as many random ones.")


def _few(view: state.View) -> list[str]:
    levels = selection.levels(view.read)
    stated = [name for name in levels if name.startswith("hypothesis:")]
    return [*(name for name in ("linear", "nonlinear", "directions") if name in levels), *stated] or levels[-1:]


def stage(view: state.View) -> None:
    """One figure in large type for a room: a slider over sites, and a switch that may reverse the conclusion."""
    kinds = [kind for kind in STAGE if kind != "frontier" or (view.frame["metric"] == "replace").any()]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = link.choose("Figure", kinds, "figure", default="curves", show=SHOWN.__getitem__, pills=True)
        floors = [name for name in ("strong", "weak") if (view.frame["floor"] == name).any()]
        floor = link.choose("Floor", floors, "floor", pills=True, show={
            "strong": "what the input alone shows", "weak": "position alone"}.__getitem__)  # fmt: skip
    hooks = selection.hooks(view.read)
    asked = dict(view.chosen)
    if kind in ("curves", "map"):
        asked |= {"floor": floor}
        upto = link.choose("Up to", hooks, "upto", default=hooks[-1], show=selection.site_label, slider=True)
        hooks = hooks[: hooks.index(upto) + 1]
    if kind == "curves":
        asked |= {"level": _few(view)}
    frame = view.frame
    frame = frame[frame["hook"].isin(hooks) | (frame["metric"] != "read")] if kind in ("curves", "map") else frame
    large(view, figures.figure(STAGE[kind], frame, template=view.template, **asked))
    if kind in ("curves", "map") and len(floors) > 1:
        st.caption("Switch the floor: what a weak one credits to the network is in the input.")


def large(view: state.View, made: go.Figure) -> None:
    """A figure as for a projector, 16 : 9."""
    made = looks.enlarged(made)
    state.draw(made, "stage", "", config=looks.CONFIG | {"toImageButtonOptions": looks.SLIDE})


def onwards() -> None:
    """The other questions, each a click away and on the first screen."""
    with st.container(horizontal=True):
        for name, asked, more in (
            ("map", "Where does it leak? →", {}), ("map", "Is it used? →", {"tab": "causal"}),
            ("examples", "On which examples? →", {}), ("trust", "Can I trust it? →", {}),
            ("compare", "Is it better than another run? →", {}),
        ):  # fmt: skip
            st.page_link(state.PAGES[name], label=f":blue[{asked}]", query_params=link.kept() | more)


view = state.head("story")
on_stage = link.choose("Show", ["page", "stage"], "view", pills=True, label_visibility="collapsed",
                       show={"page": "The story", "stage": "Stage: one figure in large type"}.__getitem__)  # fmt: skip
if on_stage == "stage":
    state.titled("Stage", view.run.name)
    stage(view)
else:
    found = told(view)
    strip(found)
    st.markdown(state.plain(used.used(view.frame, **view.chosen)))
    onwards()
    small(view, found)
    changes(found)
