"""Home: the runs under the folder, how far each has come, and what the selected one says at a glance."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import pandas as pd
import streamlit as st

from leakboard import data, state
from probekit.results import selection, tables, text

st.title("Runs")
found = data.runs(state.root())
if not found:
    state.no_runs()
    st.stop()

rows = []
for run in found:
    done, total = run.status.get("done"), run.status.get("total")
    rows.append(
        {
            "run": run.name,
            "state": run.state,
            "cells": done / total if isinstance(done, int) and isinstance(total, int) and total else None,
            "failed": len(run.status.get("failed", [])),
            "model": (run.spec.get("model") or {}).get("name") or (run.spec.get("task") or {}).get("testbed"),
            "updated (UTC)": pd.to_datetime(str(run.status.get("updated")), errors="coerce"),
        }
    )
st.dataframe(
    pd.DataFrame(rows),
    hide_index=True,
    width="stretch",
    column_config={
        "cells": st.column_config.ProgressColumn("cells done", format="percent", min_value=0, max_value=1),
        "updated (UTC)": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm", timezone="UTC"),
    },
)

view = state.view()
st.subheader("The selected run at a glance")
leak = tables.leak_map(view.frame, **view.chosen)
last = leak[leak["site_order"] == leak["site_order"].max()] if len(leak) else leak
curve = tables.frontier(view.frame, **view.chosen)
replaced = curve[(curve["metric"] == "replace") & (curve["control"] == "") & (curve["situation"] == "seen")]
columns = st.columns(4)
one = leak.dropna(subset=["bits"]).head(1)
columns[0].metric(
    "Floor, input only",
    f"{one['floor_bits'].iloc[0]:.3f} bit" if len(one) else "NA",
    help="Bits per example of the best reader that sees only the input.",
)
columns[1].metric(
    "Ceiling, the model itself",
    f"{one['ceiling_bits'].iloc[0]:.3f} bit" if len(one) else "NA",
    help="The model's own entropy: nothing can do better.",
)
linear = last[last["level"] == "linear"]
columns[2].metric(
    "Linear, last site",
    text.value_text(linear.iloc[0]).split(" ")[0] if len(linear) else "NA",
    help="FBU of a linear reader of the last hook point.",
)
stated = replaced[replaced["level"].str.startswith("hypothesis:")]
columns[3].metric(
    "Stated hypothesis, replaced",
    text.value_text(stated.iloc[0]).split(" ")[0] if len(stated) else "NA",
    help="FBU when the model keeps only the hypothesis' features; NA when none was stated.",
)
behaviours, domains = selection.behaviours(view.frame), selection.domains(view.frame)
st.text(
    f"{len(behaviours)} behaviours: {', '.join(behaviours)}\n{len(domains)} domains: {', '.join(domains)}\n"
    f"{len(selection.hooks(view.frame))} hook points, {len(selection.levels(view.frame))} levels"
)
