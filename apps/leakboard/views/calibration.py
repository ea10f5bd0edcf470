"""Calibration: what the kit says of plants whose answer is known, beside the answer."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import streamlit as st

from leakboard import data, state
from probekit.errors import ProbekitError
from probekit.results import curves, looks

st.title("Calibration")
found = data.runs(state.root() / "calibration")
done = [run for run in found if run.manifest is not None and "calibration" in run.tables]
if not done:
    with st.container(border=True):
        st.subheader("Not calibrated here yet")
        if found:
            st.text(f"{found[0].name} is not finished: the same command goes on from there.")
        st.text("Every metric is measured on plants whose answer is known, and judged:")
        st.code("probekit calibrate --seeds 10", language="bash")
    st.stop()
run = done[0]
try:
    frame = run.table("calibration")
except ProbekitError as error:
    st.error(f"**This calibration is broken.** {state.plain(error)}", icon=":material/error:")
    st.stop()
caption = (
    "Each point is one known truth: on the line is right, an open marker is not accepted, a thin cross is what a usual "
    "method says of the same case."
)
with st.container(border=True):
    st.plotly_chart(
        curves.calibration(frame, template=state.template()),
        theme=None,
        config=looks.CONFIG,
        key="figure-calibration",
        alt=caption,
    )
    st.caption(caption)
red = frame[~frame["passed"].astype(bool)]
if len(red):
    st.subheader("Not accepted")
    st.dataframe(
        red[["case", "metric", "level", "keep", "arm", "truth", "estimate", "low", "high", "coverage", "why"]],
        hide_index=True,
        width="stretch",
    )
noise = next((run for run in found if run.manifest is not None and "noise" in run.tables), None)
if noise is not None:
    st.subheader("False positives")
    st.caption(
        "Sites that know nothing: in how many seeds any of them was called informative, allowed up to `limit`; "
        "`naive_rate` is what the best site's own p-value would have said."
    )
    st.dataframe(noise.table("noise"), hide_index=True, width="stretch")
state.numbers(frame, f"{run.name}-calibration")
