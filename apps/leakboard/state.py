"""What is selected, and the few pieces every page is made of.

Text from data sets, specs and file names goes through `plain` before it meets markdown: an image link in it would
otherwise be fetched by the viewer's browser.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
import argparse
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from leakboard import data, link
from probekit.errors import ProbekitError
from probekit.results import figures, looks, tables
from probekit.results import selection as selection_of
from probekit.results import text as text_of
from probekit.results.headline import finding
from probekit.storage.runs import Run, list_sweeps

PAGES = {name: f"views/{name}.py" for name in ("runs", "story", "map", "examples", "compare", "trust")}
TITLES = {"runs": "Runs", "story": "Story", "map": "Map", "examples": "Examples", "compare": "Compare",
          "trust": "Trust"}  # fmt: skip


@dataclass(frozen=True)
class View:
    """One run with records to show, and what of it is selected."""

    run: Run
    frame: pd.DataFrame
    behaviour: str
    domain: str
    position: str
    template: looks.Template
    _parts: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        """What tells the state of this run from every other one: for caches that are handed its frame unhashed."""
        return str(self.run.path), self.run.fingerprint

    def of(self, metric: str) -> pd.DataFrame:
        """Records of a metric at hook points, of what is selected, controls among them."""
        if metric not in self._parts:
            frame = self.frame
            mine = (frame["metric"] == metric) & (frame["behaviour"] == self.behaviour) & (frame["hook"] != "")
            mine &= (frame["position"] == self.position) & (frame["fit_domain"] == self.domain)
            self._parts[metric] = frame[mine]
        return self._parts[metric]

    @property
    def chosen(self) -> dict[str, str]:
        return {"behaviour": self.behaviour, "domain": self.domain, "position": self.position}

    @property
    def found(self) -> pd.Series | None:
        """The record that the headline is of: where pages open."""
        return finding(self.frame, **self.chosen)

    @property
    def read(self) -> pd.DataFrame:
        """What was read of the selected behaviour where it was fitted, controls left out."""
        frame = self.frame
        mine = (frame["behaviour"] == self.behaviour) & (frame["position"] == self.position) & (frame["control"] == "")
        return frame[mine & (frame["fit_domain"] == self.domain) & (frame["metric"] == "read") & (frame["hook"] != "")]


def root() -> Path:
    """The folder whose runs are shown: that of the command line (`... -- --runs PATH`), or one of many jobs in it."""
    return base() / folder()


def base() -> Path:
    """The folder of runs of the command line."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    return parser.parse_known_args(sys.argv[1:])[0].runs


def folder() -> str:
    """The folder of many jobs that is looked into, by its name; "" for the runs themselves."""
    asked = link.kept().get("folder", "")
    return asked if asked in list_sweeps(base()) else ""


def template() -> looks.Template:
    """The viewer's theme."""
    return "dark" if st.context.theme.type == "dark" else "light"


def plain(text: object) -> str:
    """Text that markdown shows as it is.

    Addresses are made links after escapes are resolved, so that a space of no width has to break them.
    """
    broken = re.sub(r"(?i)(https?:|www(?=\.)|(?=@))", "\\1\u200b", str(text))
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>$~:&^])", r"\\\1", broken).replace("\n", " ")


def seal(run: Run) -> str:
    """What tells a run from another one of the same name; "" while it is measured."""
    return str(run.manifest["digest"])[:10] if run.manifest else ""


def default_run(found: list[Run]) -> Run:
    """The latest whole run, so that a page opens on something to see."""
    return next((run for run in found if not run.problem), found[0])


def titled(*parts: str) -> None:
    """The title of the browser's tab."""
    st.set_page_config(page_title=" · ".join([*(part for part in parts if part), "leakboard"]))


def head(name: str, said: str = "") -> View:
    """The head of a page on one run: title and what is selected. With nothing to show, says why and ends the page."""
    titled(TITLES[name])
    st.title(TITLES[name])
    if said:
        st.caption(said)
    found = data.runs(root())
    if not found:
        no_runs()
        st.stop()
    with st.container(horizontal=True):
        run = _run(found)
        titled(TITLES[name], run.name)
        frame = _records(run)
        behaviours = [] if frame is None else selection_of.behaviours(frame)
        chosen = _where(frame, behaviours) if behaviours else ()
    for said in link.notes():
        st.warning(plain(said), icon=":material/link_off:")
    if run.problem or frame is None:
        problem(run, frame)
    if not chosen or frame is None:
        if not run.problem:
            st.text("This run holds no records of a behaviour, so there is nothing to show.")
        st.stop()
        raise AssertionError  # st.stop does not return
    return View(run, frame, *chosen, template())


def _run(found: list[Run]) -> Run:
    by_name = {run.name: run for run in found}
    asked = link.kept().get("run")
    if asked is not None and asked not in by_name:
        st.error(f"**There is no run '{plain(asked)}' here.** The link was made for another folder of runs.")
        st.stop()
    name = link.choose("Run", list(by_name), "run", default=default_run(found).name, width=260)
    run = data.opened(by_name[name])
    known = link.kept().get("seal")
    if known and known != seal(run) and asked == name:
        link.note(f"{name} was measured again since this link was made: its numbers may be others.")
    link.kept()["run"] = name  # a link names its run, also where it is the default
    if seal(run):
        link.kept()["seal"] = seal(run)
    return run


def _where(frame: pd.DataFrame, behaviours: list[str]) -> tuple[str, str, str]:
    """Behaviour, domain and position; a choice of one is not shown."""
    behaviour = link.choose("Behaviour", behaviours, "behaviour", width=220,
                            default=selection_of.default_behaviour(frame))  # fmt: skip
    rows = frame[frame["behaviour"] == behaviour]
    read = rows[rows["metric"].isin(["read", "replace"])]
    fitted = selection_of.domains(read if len(read) else rows)
    domain = link.choose("Fitted on", fitted, "domain", width=180) if len(fitted) > 1 else fitted[0]
    places = selection_of.positions(frame, behaviour)
    first = "all" if "all" in places else places[0]
    position = link.choose("Read at", places, "position", default=first, width=180) if len(places) > 1 else first
    return behaviour, domain, position


def no_runs() -> None:
    """The state of a page before anything was measured."""
    with st.container(border=True):
        st.subheader("Nothing has been measured yet")
        st.text(f"There is no run under {root()}. Describe what to measure in a spec, then run it:")
        st.code(
            "probekit plan SPEC.toml    # what it would cost\nprobekit run SPEC.toml     # writes runs/NAME",
            language=None,
        )
        st.text("This page shows the run as soon as its first cells are done.")


def problem(run: Run, frame: pd.DataFrame | None) -> None:
    """The state of a page whose run is unfinished or broken: what is wrong, and what to do."""
    if frame is None or run.state == "damaged":
        text = run.problem or st.session_state.get("_unreadable", "its records cannot be read.")
        st.error(f"**This run is damaged.** {plain(text)}", icon=":material/error:")
        return
    done, total = run.status.get("done"), run.status.get("total")
    with st.container(border=True):
        st.markdown(
            "**This run is not finished.** What is shown is what there is so far; headline numbers may still move."
        )
        if isinstance(done, int) and isinstance(total, int) and total > 0:
            st.progress(min(1.0, done / total), text=f"{done} of {total} cells")
        if run.state != "running":
            st.code("probekit run SPEC.toml     # goes on from there", language=None)


def draw(made: go.Figure, key: str, caption: str, *, config: dict[str, Any] = looks.CONFIG, **how: Any) -> None:
    """A figure and one line that says how to read it."""
    st.plotly_chart(made, theme=None, config=config, key=key, alt=caption, **how)
    st.caption(caption)


def chart(view: View, kind: str, caption: str, **selection: Any) -> None:
    """A figure by name, how to read it, and its numbers with a download."""
    with st.container(border=True):
        draw(figures.figure(kind, view.frame, template=view.template, **selection), f"figure-{kind}", caption)
    numbers(tables.table(kind, view.frame, **selection), f"{view.run.name}-{kind}")


def numbers(table: pd.DataFrame, name: str) -> None:
    """The rows behind a figure, and their CSV."""
    hidden = ("site_order", "level_order", "class_order", "id")
    shown = table.drop(columns=[column for column in hidden if column in table])
    with st.expander("The numbers"):
        st.dataframe(shown, hide_index=True, width="stretch", height=320)
        st.download_button("Download CSV", text_of.to_csv(table), f"{name}.csv", "text/csv", key=f"csv-{name}")


def table_of(run: Run, name: str) -> pd.DataFrame | None:
    """A table of a run, or None with its damage told: one broken file takes down no page."""
    if name not in run.tables:
        return None
    try:
        return run.table(name)
    except ProbekitError as error:
        st.error(f"**A table of this run is damaged.** {plain(error)}", icon=":material/error:")
        return None


def _records(run: Run) -> pd.DataFrame | None:
    try:
        return run.records
    except ProbekitError as error:
        st.session_state["_unreadable"] = str(error)
        return None
