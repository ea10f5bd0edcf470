"""Decomposition: which class of description carries the bits, site by site."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
import streamlit as st

from leakboard import state
from probekit.results import selection

st.title("Decomposition")
view = state.view()
words = {"linear_first": "linear classes first", "simple_first": "simple functions first"}
arm = (
    st.segmented_control(
        "Order in which classes are added",
        selection.ORDERS,
        default=selection.ORDERS[0],
        key="order",
        format_func=words.__getitem__,
    )
    or selection.ORDERS[0]
)
state.chart(
    view,
    "decomposition",
    "Each class gets the bits that the classes below it could not explain, so the shares sum to 1. Compare both "
    "orders: a share that shrinks when it comes second was shared between the two.",
    **view.chosen,
    arm=arm,
)
