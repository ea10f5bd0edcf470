"""Is B better than A? What they share first, then every site, then the examples that changed."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
from typing import Any

import pandas as pd
import streamlit as st

from leakboard import data, link, state
from probekit.errors import ProbekitError
from probekit.results import compare, selection, sidefigures, sidetext
from probekit.storage.runs import Run, run_before

MOST = 12  # runs that are put side by side unless more are asked for
LINES = 4  # runs that are lines in one field; of more each gets a field of its own
MARKS = {"equal": "✓", "different": "✕", "unknown": "?"}


@st.cache_resource(max_entries=16, show_spinner="comparing groups")
def compared(_a: Run, _b: Run, seals: tuple[str, str], metric: str, behaviour: str, domain: str, position: str) -> Any:
    """The comparison of two states of two runs, or the sentence that says why there is none."""
    try:
        return compare.compare(_a, _b, behaviour=behaviour, domain=domain, metric=metric, position=position)
    except ProbekitError as error:
        return str(error)


def shared(found: compare.Comparison) -> None:
    """What has to be the same before a difference means anything."""
    told = found.comparable
    different = told[told["verdict"] != "equal"]
    names = ", ".join(different["what"]) or "nothing"
    with st.expander(f"Comparable? Not known to be equal: {names}", expanded=len(different) > 0):
        shown = told.assign(verdict=[f"{MARKS[verdict]} {verdict}" for verdict in told["verdict"]])
        shown = shown.rename(columns={"a": "A", "b": "B", "means": "if it differs"})
        st.dataframe(shown[["what", "verdict", "A", "B", "if it differs"]], hide_index=True, width="stretch",
                     height="content")  # fmt: skip


def along(view: state.View, found: compare.Comparison) -> None:
    """B - A at every site for one level, and the cells as a table."""
    cells = found.cells[(found.cells["metric"] != "selected") & (found.cells["hook"] != "")]
    labels = list(cells.loc[cells["difference"].notna(), "label"].unique())
    if not labels:
        st.text("The runs have no cell in common that has a value in both.")
        return
    label = link.choose("Level", labels, "compared", default="linear", width=240)
    some = cells[cells["label"] == label]
    with st.container(border=True):
        state.draw(
            sidefigures.differences(some, a=found.a, b=found.b, template=view.template,
                                about=f"{view.behaviour} · paired by group where groups are shared"), "differences",
            "Below 0 B leaves less unexplained. The interval is of the difference, drawn over the same groups in both "
            "runs where they share them; where it holds 0, it cannot be told.",
        )  # fmt: skip
    rows = pd.DataFrame(sidetext.cell_rows(found.cells), columns=["site", "level", "A", "B", "B - A", "verdict"])
    with st.expander("Every cell"):
        st.dataframe(rows, hide_index=True, width="stretch")
        st.caption("*: holds when all cells are looked at at once.")


def changed(found: compare.Comparison) -> None:
    st.subheader("Examples that changed the most")
    if found.changed.empty:
        st.caption(state.plain(found.unchanged or "No row changed."))
        return
    for row in found.changed.to_dict("records"):
        with st.container(border=True):
            better = row["change"] < 0
            st.markdown(f":{'green' if better else 'red'}-badge[{'better' if better else 'worse'}] "
                        f"{state.plain(sidetext.changed_words(row))}")  # fmt: skip
            st.text("(no text was kept)" if pd.isna(row["text"]) else str(row["text"])[:600])


@st.cache_resource(max_entries=8, show_spinner="comparing runs")
def on_one_axis(
    _runs: list[Run], seals: tuple[str, ...], metric: str, behaviour: str, domain: str, position: str
) -> Any:
    """Several runs beside the first, or the sentence that says why they are not."""
    try:
        return compare.across(_runs, behaviour=behaviour, domain=domain, metric=metric, position=position)
    except ProbekitError as error:
        return str(error)


def more(view: state.View, runs: list[Run], against: Run, metric: str) -> None:
    """Further runs on the same axis: checkpoints, seeds, sizes, models. Of a sweep all of them at first."""
    names = [run.name for run in runs if run.name not in (view.run.name, against.name)]
    if not names:
        return
    st.subheader("More runs on one axis")
    first: list[str] = []
    if state.folder():  # whose jobs ask of other files, too, what the run looked at does not
        alike = {name for name, line in data.lines(runs, 0.5).items() if line.behaviour == view.behaviour}
        first = [name for name in names if name in alike][: MOST - 2]
    picked = link.choose_several("Runs beside A and B", names, "more", default=first)
    if not picked:
        return
    by_name = {run.name: run for run in runs}
    all_of_them = [against, view.run, *(data.opened(by_name[name]) for name in picked)]
    where = (metric, view.behaviour, view.domain, view.position)
    table = on_one_axis(all_of_them, tuple(state.seal(run) for run in all_of_them), *where)
    if isinstance(table, str):
        st.warning(state.plain(table))
        return
    table = table[(table["metric"] != "selected") & (table["hook"] != "") & table["value"].notna()]
    if table.empty:
        st.text("The runs have no cell in common that has a value.")
        return
    labels = list(table["label"].unique())
    with st.container(horizontal=True):
        label = link.choose("Level of all", labels, "of-all", default="linear", width=240)
        table = table[table["label"] == label]
        hooks = list(table.sort_values("site_order")["hook"].unique()) if "site_order" in table else list(
            table["hook"].unique())  # fmt: skip
        found = view.found
        here = found["hook"] if found is not None and found["hook"] in hooks else hooks[len(hooks) // 2]
        hook = link.choose("At", hooks, "all-at", default=here, show=selection.site_label, width=200)
    order = [run.name for run in all_of_them]
    with st.container(border=True):
        made = sidefigures.over_runs(table[table["hook"] == hook], order, template=view.template)
        state.draw(made, "over-runs", "One site in every run; the dotted line is A.")
    with st.container(border=True):
        if len(order) > LINES:
            made = sidefigures.multiples(table, order, template=view.template)
            state.draw(made, "several", "A field per run, along the network; grey is A in each of them.")
        else:
            made = sidefigures.several(table, order, template=view.template)
            state.draw(made, "several", "A line per run; the first is A.")


def beside(view: state.View, others: list[Run]) -> str:
    """What a run is compared with at first: the one before it, else one whose first behaviour is the one looked at."""
    if (before := run_before(view.run)) is not None:
        return before.name
    lines = data.lines(others, 0.5)
    return next((name for name, line in lines.items() if line.behaviour == view.behaviour), others[0].name)


view = state.head("compare", "B is the run above; A is what it is compared with.")
others = [run for run in data.runs(state.root()) if run.manifest and run.name != view.run.name]
if not others:
    st.text("There is no other finished run in this folder to compare with.")
    st.stop()
metrics = [name for name in ("read", "replace") if (view.frame["metric"] == name).any()]
with st.container(horizontal=True):
    named = "against" in link.kept()  # so that it stays what it is, whatever other runs come into the folder
    name = link.choose(
        "A, compared with",
        [run.name for run in others],
        "against",
        default=beside(view, others),
        always=named,
        width=300,
    )
    metric = link.choose("Metric", metrics, "by", width=160)
for said in link.notes():
    st.caption(state.plain(said))
against = data.opened(next(run for run in others if run.name == name))
found = compared(against, view.run, (state.seal(against), state.seal(view.run) or view.run.fingerprint), metric,
                 view.behaviour, view.domain, view.position)  # fmt: skip
if isinstance(found, str):
    st.info(state.plain(found))
    st.stop()
for i, sentence in enumerate(found.sentences):
    st.markdown(f"{'#### ' if i == 0 else ''}{state.plain(sentence)}")
shared(found)
along(view, found)
changed(found)
more(view, others, against, metric)
