"""What is selected, kept in the URL so that a view can be sent; and the few pieces every page is made of.

Text from data sets, specs and file names goes through `plain` before it meets markdown: an image link in it would
otherwise be fetched by the viewer's browser.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from leakboard import data
from probekit.errors import ProbekitError
from probekit.results import figures, looks, tables
from probekit.results import selection as selection_of
from probekit.results import text as text_of
from probekit.storage.runs import Run


@dataclass(frozen=True)
class View:
    """One run with records to show, and what of it is selected."""

    run: Run
    frame: pd.DataFrame
    behaviour: str
    domain: str
    position: str
    template: looks.Template

    @property
    def chosen(self) -> dict[str, str]:
        return {"behaviour": self.behaviour, "domain": self.domain, "position": self.position}


def root() -> Path:
    """The folder of runs, from the command line: `... -- --runs PATH`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    return parser.parse_known_args(sys.argv[1:])[0].runs


def template() -> looks.Template:
    """The viewer's theme."""
    return "dark" if st.context.theme.type == "dark" else "light"


def plain(text: object) -> str:
    """Text that markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>$~:&^])", r"\\\1", str(text)).replace("\n", " ")


def pick(label: str, options: Sequence[Any], key: str, *, default: Any = None, show: Callable[[Any], str] = str) -> Any:
    """A selectbox whose value lives in the URL under `key`; a value that is not an option any more is dropped."""
    options = list(options)
    if key in st.session_state and st.session_state[key] not in options:
        del st.session_state[key]
    index = options.index(default) if default in options else 0
    return st.selectbox(
        label, options, index=index if options else None, key=key, format_func=show, bind="query-params"
    )


def sidebar() -> None:
    """Run, behaviour, domain and position: chosen once, for all pages."""
    found = data.runs(root())
    with st.sidebar:
        if not found:
            st.text("No runs yet")
            return
        by_name = {run.name: run for run in found}
        # The first complete run, so that the page opens on something to see.
        best = next((run.name for run in found if not run.problem), found[0].name)
        run = by_name[pick("Run", list(by_name), "run", default=best)]
        frame = _records(run)
        if frame is None or frame.empty:
            return
        behaviour = pick(
            "Behaviour", selection_of.behaviours(frame), "behaviour", default=selection_of.default_behaviour(frame)
        )
        pick("Fitted on domain", selection_of.domains(frame, behaviour), "domain")
        places = selection_of.positions(frame, behaviour)
        if len(places) > 1:
            pick("Read at", places, "position", default=_first_position(places))
        model = (
            (run.spec.get("model") or {}).get("name") or (run.spec.get("task") or {}).get("testbed") or "no model named"
        )
        st.text(f"{model}\n{len(frame):,} records, {_state(run)}")


def view() -> View:
    """What is selected. With nothing to show, explains why and ends the page."""
    found = data.runs(root())
    if not found:
        no_runs()
        st.stop()
    run = next((run for run in found if run.name == st.session_state.get("run")), found[0])
    frame = _records(run)
    if run.problem or frame is None:
        problem(run, frame)
    if frame is None or frame.empty or not selection_of.behaviours(frame):
        if not run.problem:
            st.text("This run holds no records of a behaviour, so there is nothing to show.")
        st.stop()
        raise AssertionError  # st.stop does not return
    names = selection_of.behaviours(frame)
    behaviour = st.session_state.get("behaviour")
    behaviour = behaviour if behaviour in names else selection_of.default_behaviour(frame)
    fitted = selection_of.domains(frame, behaviour)
    domain = st.session_state.get("domain")
    places = selection_of.positions(frame, behaviour)
    position = st.session_state.get("position")
    position = position if position in places else _first_position(places)
    return View(run, frame, behaviour, domain if domain in fitted else fitted[0], position, template())


def _first_position(places: Sequence[str]) -> str:
    """What tables take where none is said."""
    return "all" if "all" in places else places[0]


def no_runs() -> None:
    """The state of a page before anything was measured."""
    with st.container(border=True):
        st.subheader("Nothing has been measured yet")
        st.text(f"There is no run under {root()}. Describe what to measure in a spec, then run it:")
        st.code(
            "probekit plan SPEC.toml    # what it would cost\nprobekit run SPEC.toml     # writes runs/NAME",
            language="bash",
        )
        st.text("This page shows the run as soon as its first cells are done; reload to see more.")


def problem(run: Run, frame: pd.DataFrame | None) -> None:
    """The state of a page whose run is unfinished or broken: what is wrong, and what to do."""
    text = run.problem or st.session_state.get("_unreadable", "its records cannot be read.")
    if frame is None or run.state == "damaged":
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
            st.code("probekit run SPEC.toml     # goes on from there", language="bash")


def chart(view: View, kind: str, caption: str, **selection: Any) -> None:
    """A figure, one line that says how to read it, and its numbers with a download."""
    with st.container(border=True):
        st.plotly_chart(
            figures.figure(kind, view.frame, template=view.template, **selection),
            theme=None,
            config=looks.CONFIG,
            key=f"figure-{kind}",
            alt=caption,
        )
        st.caption(caption)
    numbers(tables.table(kind, view.frame, **selection), f"{view.run.name}-{kind}")


def numbers(table: pd.DataFrame, name: str) -> None:
    """The rows behind a figure, and their CSV."""
    hidden = ("site_order", "level_order", "class_order", "id")
    shown = table.drop(columns=[column for column in hidden if column in table])
    with st.expander("The numbers"):
        st.dataframe(shown, hide_index=True, width="stretch", height=320)
        st.download_button("Download CSV", text_of.to_csv(table), f"{name}.csv", "text/csv", key=f"csv-{name}")


def _records(run: Run) -> pd.DataFrame | None:
    try:
        return run.records
    except ProbekitError as error:
        st.session_state["_unreadable"] = str(error)
        return None


def _state(run: Run) -> str:
    return run.state if run.state in ("complete", "damaged") else f"{run.state}, not finished"
