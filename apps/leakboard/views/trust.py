"""Trust: what was checked and what was not, what may be claimed, which choices decide it, where it comes from."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
import json

import pandas as pd
import streamlit as st

from leakboard import data, link, state
from probekit.errors import BadInput, ProbekitError
from probekit.results import claims, curves, selection, tables, text, trust

MARGINS = (0.02, 0.05, 0.1, 0.2)
COLOUR = {"holds": "green", "fails": "red", "undecided": "orange", "NA": "gray"}
STATES = {"failed": ("✕", "red"), "not measured": ("?", "orange"), "passed": ("✓", "green")}
WORDS = {
    "predicts in distribution": "it reads the behaviour off unseen examples of the same kind",
    "predicts the unseen": "fitted here, it holds in situations that it was not fitted on",
    "the model uses it": "kept alone it is enough, erased it is missed, and random directions do not do as well",
}


def checked(view: state.View) -> None:
    """One list: failed first, then what was not measured, then what passed; each with what fills it."""
    found = trust.trust(view.frame, **view.chosen, problem=view.run.problem)
    st.markdown(f"**{state.plain(trust.counted(found))}**")
    st.caption("Checks of how it was measured. What the numbers then allow to be claimed, and what not, is below them.")
    for name, (mark, colour) in STATES.items():
        some = [check for check in found if check.state == name]
        if not some:
            continue
        with st.expander(f":{colour}[{mark}] {len(some)} {name}", expanded=name != "passed"):
            for check in some:
                st.markdown(f"**{state.plain(check.about)}: {state.plain(check.name)}.** {state.plain(check.said)}")
                if check.fill:
                    st.code(check.fill, language=None, wrap_lines=True)


def claimed(view: state.View) -> None:
    """May it be said? Each claim is a conjunction of measures, passed or failed at a declared margin."""
    rows = view.frame[(view.frame["behaviour"] == view.behaviour) & (view.frame["fit_domain"] == view.domain)]
    known = [level for level in selection.levels(rows, "read") if level not in ("prior", "baseline")]
    if not known:
        st.text("Nothing was read in this domain, so there is nothing to claim.")
        return
    with st.container(horizontal=True):
        found = view.found
        first = found["level"] if found is not None and found["level"] in known else "linear"
        level = link.choose("Level", known, "level", default=first, show=selection.vocabulary, width=220)
        at_level = rows[(rows["level"] == level) & (rows["control"] == "") & rows["metric"].isin(("read", "replace"))]
        best = claims.selected_hook(view.frame, level=level, **view.chosen)
        if best == selection.unembedding(view.frame, view.behaviour) and found is not None:
            best = found["hook"]  # what the unembedding reads is no finding
        hook = link.choose("At", selection.hooks(at_level, "read"), "claimed", default=best,
                           show=selection.site_label, width=200)  # fmt: skip
        margin = link.choose("Margin", MARGINS, "margin", default=0.1, width=100)
        here = at_level[at_level["hook"] == hook]
        sources = [name for name in here["source"].unique() if name]
        ks = sorted(int(k) for k in here["k"].dropna().unique())
        source = link.choose("Source", sources, "source", width=180) if len(sources) > 1 else None
        k = link.choose("k", ks, "claimed-k", width=100) if len(ks) > 1 else None
    st.caption(
        "A claim holds when every measure in it passes an equivalence test at the margin; *detectable* is the smallest "
        f"FBU that this many rows could have told from 0. {state.plain(selection.site_label(best))} is the place that "
        "selection rows prefer: a place picked by its test rows would be luck."
    )
    at_hook = view.frame[(view.frame["behaviour"] == view.behaviour) & (view.frame["hook"] == hook)]
    try:
        losses = view.run.losses_of(*at_hook["id"])
    except ProbekitError as error:
        st.error(f"**The losses of this run are damaged.** {state.plain(error)}", icon=":material/error:")
        return
    for name, claim in claims.CLAIMS.items():
        try:
            judged = claims.judge(
                view.frame, losses, claim, hook=hook, level=level, source=source, k=k, margin=margin, **view.chosen
            )
        except BadInput as error:
            st.warning(state.plain(error))
            continue
        verdict = judged["verdict"].iloc[-1]
        with st.container(border=True):
            st.markdown(f"**{name[0].upper()}{name[1:]}** :{COLOUR[verdict]}-badge[{verdict}] {WORDS[name]}")
            st.dataframe(claims.to_read(judged), hide_index=True, width="stretch")


def choices(view: state.View) -> None:
    """Two choices of the analyst that can make or unmake a finding: the words, and the floor."""
    accuracy = view.frame[view.frame["metric"] == "accuracy"]
    fitted = list(accuracy["fit_domain"].unique())
    state.chart(
        view,
        "ontology",
        "The same facts named in two ways: where a linear reader fails and a nonlinear one succeeds, the leak belongs "
        "to the words and not to the model.",
        domain=view.domain if view.domain in fitted else None,
        position=view.position,
    )
    both = view.frame[
        (view.frame["metric"] == "read") & (view.frame["behaviour"] == view.behaviour) & (view.frame["floor"] == "weak")
    ]
    level = None
    if len(both):
        level = link.choose("Level on both floors", selection.levels(both), "floored", default="linear",
                            show=selection.vocabulary, width=220)  # fmt: skip
    state.chart(
        view,
        "floor_switch",
        "The same reader on two floors: the distance between the lines is input statistics that a weak floor would "
        "have counted as something the model knows.",
        **view.chosen,
        level=level,
    )
    gap = tables.group_leakage(view.frame, **view.chosen)
    if len(gap):
        st.markdown("**Split by row**")
        st.caption(
            "The same reader with rows of a group on both sides of the split: the gap is what it would have claimed by "
            "remembering groups."
        )
        by_group = [text.value_text(row) for _, row in gap.iterrows()]
        by_row, gaps = (gap[name].map(text.number) for name in ("value_by_row", "gap"))
        shown = gap.assign(by_group=by_group, by_row=by_row, gap=gaps)
        st.dataframe(shown[["site", "label", "by_group", "by_row", "gap"]], hide_index=True, width="stretch")


def calibrated() -> None:
    """What the kit says of plants whose answer is known, beside the answer."""
    found = data.runs(state.root() / "calibration")
    run = next((run for run in found if run.manifest is not None and "calibration" in run.tables), None)
    frame = None if run is None else state.table_of(run, "calibration")
    if run is None or frame is None:
        st.text("Not calibrated here yet. Every metric is measured on plants whose answer is known, and judged:")
        st.code("probekit calibrate --seeds 10", language=None)
        return
    with st.container(border=True):
        state.draw(
            curves.calibration(frame, template=state.template()), "figure-calibration",
            "Each point is one known truth: on the line is right, an open marker is not accepted, a thin cross is what "
            "a usual method says of the same case.",
        )  # fmt: skip
    red = frame[~frame["passed"].astype(bool)]
    if len(red):
        st.markdown("**Not accepted**")
        names = ["case", "metric", "level", "keep", "arm", "truth", "estimate", "low", "high", "coverage", "why"]
        st.dataframe(red[names].round(3), hide_index=True, width="stretch")
    noise = next((run for run in found if run.manifest is not None and "noise" in run.tables), None)
    if noise is not None and (rates := state.table_of(noise, "noise")) is not None:
        st.markdown("**False positives**")
        st.caption(
            "Sites that know nothing: in how many seeds any of them was called informative, allowed up to `limit`; "
            "`naive_rate` is what the best site's own p-value would have said."
        )
        st.dataframe(rates.round(3), hide_index=True, width="stretch")
    state.numbers(frame, f"{run.name}-calibration")


def origin(view: state.View) -> None:
    """What was asked, with which code and data, what the audit found, and how long it took."""
    manifest = view.run.manifest
    if manifest is None:
        st.text("A run has a manifest once it is finished; its spec and the cells so far are below.")
        if view.run.torn:
            st.text(f"{view.run.torn} torn lines were ignored; their cells will be done again.")
    else:
        if failed := manifest["cells"].get("failed"):
            st.markdown("**Failed cells**")
            st.dataframe(pd.DataFrame(failed), hide_index=True, width="stretch")
        audit = manifest["provenance"].get("audit")
        if audit:
            st.markdown("**Audit:** what was checked about the extraction itself, before any number was believed")
            st.text(tables.extraction(view.frame))
            found = pd.DataFrame({"check": list(audit), "found": [_rounded(value) for value in audit.values()]})
            st.dataframe(found, hide_index=True, width="stretch")
        table = tables.provenance(view.frame)
        rest = table[(table["section"] == "provenance") & ~table["key"].str.startswith("audit")]
        st.markdown("**Code, model, data and timings**")
        st.dataframe(rest[["key", "value"]], hide_index=True, width="stretch")
        st.markdown("**Files and digests**")
        st.dataframe(table[table["section"].isin(["run", "files"])], hide_index=True, width="stretch")
        state.numbers(table, f"{view.run.name}-provenance")
    st.markdown("**Spec**")
    st.code(json.dumps(view.run.spec, indent=2, ensure_ascii=False), language=None)
    slow = view.run.cells.sort_values("seconds", ascending=False, ignore_index=True).round(2)
    st.markdown("**Cells**")
    st.caption(f"{slow['seconds'].sum():,.0f} seconds of measuring in all; the slowest first.")
    st.dataframe(slow, hide_index=True, width="stretch", height=280)


def _rounded(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


view = state.head("trust")
checked(view)
st.subheader("What may be claimed")
claimed(view)
with st.expander("Choices that can reverse a conclusion: words and floors"):
    choices(view)
with st.expander("Calibration: what the kit says where the answer is known"):
    calibrated()
with st.expander("Provenance: spec, audit, code, files, cells"):
    try:
        origin(view)
    except ProbekitError as error:
        st.error(f"**A table of this run is damaged.** {state.plain(error)}", icon=":material/error:")
