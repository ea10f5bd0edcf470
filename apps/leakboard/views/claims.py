"""Claims: may it be said? Each claim is a conjunction of measures, passed or failed at a declared margin."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import streamlit as st

from leakboard import state
from probekit.errors import BadInput
from probekit.results import claims, selection

MARGINS = (0.02, 0.05, 0.1, 0.2)
COLOUR = {"holds": "green", "fails": "red", "undecided": "orange", "NA": "gray"}
WORDS = {
    "predicts in distribution": "it reads the behaviour off unseen examples of the same kind",
    "predicts the unseen": "fitted here, it holds in situations that it was not fitted on",
    "the model uses it": "kept alone it is enough, erased it is missed, and random directions do not do as well",
}

st.title("Claims")
view = state.view()
rows = view.frame[(view.frame["behaviour"] == view.behaviour) & (view.frame["fit_domain"] == view.domain)]
known = [level for level in selection.levels(rows, "read") if level not in ("prior", "baseline")]
if not known:
    st.text("Nothing was read in this domain, so there is nothing to claim.")
    st.stop()
left, middle, right = st.columns(3)
with left:
    level = state.pick("Level", known, "level", default="linear", show=selection.vocabulary)
at_level = rows[(rows["level"] == level) & (rows["control"] == "") & rows["metric"].isin(("read", "replace"))]
with middle:
    best = claims.selected_hook(view.frame, level=level, **view.chosen)
    hook = state.pick("At", selection.hooks(at_level, "read"), "hook", default=best, show=selection.site_label)
with right:
    margin = state.pick("Margin", [str(m) for m in MARGINS], "margin", default="0.1")
here = at_level[at_level["hook"] == hook]
sources = [name for name in here["source"].unique() if name]
ks = sorted(int(k) for k in here["k"].dropna().unique())
left, middle, _ = st.columns(3)
with left:
    source = state.pick("Source", sources, "source") if len(sources) > 1 else None
with middle:
    k = state.pick("k", ks, "k") if len(ks) > 1 else None
st.caption(
    "A claim holds when every measure in it passes an equivalence test at the margin; `detectable` is the smallest "
    f"FBU that this many rows could have told from 0. {state.plain(selection.site_label(best))} is the place that "
    "selection rows prefer: a place picked by its test rows would be luck."
)
at_hook = view.frame[(view.frame["behaviour"] == view.behaviour) & (view.frame["hook"] == hook)]
losses = view.run.losses_of(*at_hook["id"])
for name, claim in claims.CLAIMS.items():
    try:
        judged = claims.judge(
            view.frame, losses, claim, hook=hook, level=level, source=source, k=k, margin=float(margin), **view.chosen
        )
    except BadInput as error:
        st.warning(state.plain(error))
        continue
    verdict = judged["verdict"].iloc[-1]
    with st.container(border=True):
        st.subheader(f"{name[0].upper()}{name[1:]}")
        st.markdown(f":{COLOUR[verdict]}-badge[{verdict}] {WORDS[name]}")
        st.dataframe(claims.to_read(judged), hide_index=True, width="stretch")
