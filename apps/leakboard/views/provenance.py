"""Provenance: what was asked, with which code and data, what the audit found, and how long it took."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import json

import pandas as pd
import streamlit as st

from leakboard import state
from probekit.results import tables

st.title("Provenance")
view = state.view()
manifest = view.run.manifest
if manifest is None:
    st.text("A run has a manifest once it is finished; its spec and the cells so far are below.")
    if view.run.torn:
        st.text(f"{view.run.torn} torn lines were ignored; their cells will be done again.")
else:
    cells = manifest["cells"]
    columns = st.columns(4)
    columns[0].metric("cells", f"{cells['ok']} of {cells['total']}")
    columns[1].metric("failed", len(cells["failed"]))
    columns[2].metric("records", f"{manifest['n_records']:,}")
    columns[3].metric(
        "spec", manifest["spec_hash"][:8], help="Digest of the spec: two runs with the same one asked the same."
    )
    if cells["failed"]:
        st.subheader("Failed cells")
        st.dataframe(pd.DataFrame(cells["failed"]), hide_index=True, width="stretch")
    provenance = manifest["provenance"]
    audit = provenance.get("audit")
    st.subheader("Audit")
    if audit:
        st.caption("What was checked about the extraction itself, before any number was believed.")
        st.text(tables.extraction(view.frame))
        found = pd.DataFrame({"check": list(audit), "found": [str(value) for value in audit.values()]})
        st.dataframe(found, hide_index=True, width="stretch")
    else:
        st.text("No audit was recorded.")
    table = tables.provenance(view.frame)
    rest = table[(table["section"] == "provenance") & ~table["key"].str.startswith("audit")]
    st.subheader("Code, model, data and timings")
    st.dataframe(rest[["key", "value"]], hide_index=True, width="stretch")
    with st.expander("Files and digests"):
        st.dataframe(table[table["section"].isin(["run", "files"])], hide_index=True, width="stretch")
    state.numbers(table, f"{view.run.name}-provenance")

st.subheader("Spec")
st.code(json.dumps(view.run.spec, indent=2, ensure_ascii=False), language="json")
st.subheader("Cells")
slow = view.run.cells.sort_values("seconds", ascending=False, ignore_index=True)
st.caption(f"{slow['seconds'].sum():,.0f} seconds of measuring in all; the slowest first.")
st.dataframe(slow, hide_index=True, width="stretch", height=280)
