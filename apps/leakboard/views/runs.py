"""Home: the runs under the folder, what each found, how far it is; a click opens one, two ticks compare."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
from collections.abc import Mapping

import pandas as pd
import streamlit as st

from leakboard import data, link, state
from probekit.storage.runs import Run, list_sweeps

LIVE = 5  # seconds between looks at runs that are being measured
AT_ONCE = 1.5  # seconds that the first look at many runs may take; the rest is read while the first are shown

COLUMNS = {
    "run": st.column_config.TextColumn(width=185),
    "unexplained": st.column_config.TextColumn(
        width=115,
        help="Of the finding: the site and level that selection rows prefer, and its 95 % interval.",
    ),
    "by": st.column_config.TextColumn(width=220, help="The kind of description and the site."),
    "behaviour": st.column_config.TextColumn(width=125),
    "groups": st.column_config.TextColumn(width=65),
    "model": st.column_config.TextColumn(width=105),
    "state": st.column_config.TextColumn(width=85),
    "cells": st.column_config.ProgressColumn("done", width=105, format="percent", min_value=0, max_value=1),
    "updated (UTC)": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm", timezone="UTC", width=130),
    "why": st.column_config.TextColumn(width=240),
}

state.titled("Runs")
st.title("Runs")


def listed(found: list[Run], lines: Mapping[str, data.Line]) -> pd.DataFrame:
    """A row per run: what it found with its interval, its state with the reason, how far it is."""
    rows = []
    for run in found:
        told = lines.get(run.name, data.Line(value="…"))
        done, total = run.status.get("done"), run.status.get("total")
        failed = len(run.status.get("failed") or [])
        said = f"{run.state}, {failed} failed" if failed and run.state != "damaged" else run.state
        said = "damaged" if told.wrong and run.manifest else said
        rows.append(
            {
                "run": run.name,
                "unexplained": told.value,
                "by": told.where,
                "behaviour": told.behaviour,
                "groups": f"{told.groups:,}" if told.groups else "",
                "model": told.model,
                "state": said,
                "cells": done / total if isinstance(done, int) and isinstance(total, int) and total else None,
                "updated (UTC)": pd.to_datetime(str(run.status.get("updated")), errors="coerce"),
                "why": (run.reason or told.wrong).removeprefix(f"{run.path} is broken: "),  # its name is in the row
            }
        )
    return pd.DataFrame(rows)


def at_work(run: Run) -> str:
    """How far a run is that is being measured, at what, and how long it may take, as far as it says."""
    told = run.status
    said = f"{run.name} is being measured: {told.get('done', '?')} of {told.get('total', '?')} cells"
    if isinstance(doing := told.get("doing"), str) and doing:
        said += f", now {doing}"
    if isinstance(left := told.get("left"), int | float):
        said += f", about {max(1, round(left / 60))} min left" if left >= 90 else f", about {round(left)} s left"
    return f"{said}."


def shown(table: pd.DataFrame, sought: str, wanted: str) -> pd.DataFrame:
    """The rows in which every word occurs, in one state or in all."""
    rows = table.drop(columns=["cells", "updated (UTC)"]).to_dict("records")
    text = pd.Series([" ".join(map(str, row.values())).lower() for row in rows], index=table.index, dtype=str)
    keep = pd.Series(True, index=table.index)
    for word in sought.lower().split():
        keep &= text.str.contains(word, regex=False)
    return table[keep & ((wanted == "all") | table["state"].str.startswith(wanted))].reset_index(drop=True)


def ticked(table: pd.DataFrame) -> None:
    """A click on a cell opens its run, two ticks compare theirs."""
    picked = st.session_state["runs-table"]["selection"]
    if picked.get("cells"):
        st.session_state["_open"] = [table["run"].iloc[picked["cells"][0][0]]]
    elif len(picked.get("rows", ())) == 2:
        st.session_state["_open"] = [table["run"].iloc[row] for row in sorted(picked["rows"], reverse=True)]


def whole() -> None:
    """The list. While a run is measured it is drawn again by itself, and then only this part is."""
    if st.session_state.get("_open"):
        st.rerun()
    if sweeps := list_sweeps(state.base()):
        link.choose("Folder", ["", *sweeps], "folder", width=340,
                    show=lambda name: f"{name} ({sweeps[name]} runs)" if name else "runs of single jobs")  # fmt: skip
    found = data.runs(state.root())
    if link.kept().get("run") not in (None, *(run.name for run in found)):  # of another folder
        link.keep("run", None)
        link.keep("seal", None)
    if not found:
        state.no_runs()
        return
    lines = data.lines(found, AT_ONCE)
    if len(lines) == len(found) and st.session_state.pop("_filling", False):
        st.rerun()  # the last were read: nothing has to be looked at again
    table = listed(found, lines)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        sought = link.search("Search", "find", placeholder="run, model, behaviour or why it failed", width=340)
        states = ["all", *dict.fromkeys(run.state for run in found)]
        wanted = link.choose("State", states, "state", width=180)
    rows = shown(table, sought, wanted)
    if not rows["why"].any():
        rows = rows.drop(columns="why")
    st.dataframe(
        rows,
        hide_index=True,
        width="stretch",
        height=min(640, 38 + 35 * max(1, len(rows))),
        key="runs-table",
        on_select=lambda: ticked(rows),
        selection_mode=["multi-row", "single-cell"],
        column_config=COLUMNS,
    )
    for run in found:
        if run.state == "running":
            st.caption(state.plain(at_work(run)))
    st.caption(f"{len(rows)} of {len(found)} runs. A click opens a run; two ticks compare the later with the earlier.")
    link.end()


going = st.session_state.pop("_open", None)
if going:
    by_name = {run.name: run for run in data.runs(state.root())}
    seal = state.seal(by_name[going[0]]) if going[0] in by_name else ""
    if len(going) == 2:
        link.go(state.PAGES["compare"], run=going[1], seal=state.seal(by_name[going[1]]), against=going[0])
    link.go(state.PAGES["story"], run=going[0], seal=seal)
there = data.runs(state.root())
filling = len(data.lines(there, 0)) < len(there)
if filling or any(run.state == "running" for run in there):
    st.session_state["_filling"] = filling
    st.fragment(whole, run_every=1 if filling else LIVE)()
else:
    whole()
