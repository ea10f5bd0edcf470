"""Decomposition: which class of description carries the bits, site by site."""

import streamlit as st

from leakboard import link, state
from probekit.results import selection

WORDS = {"linear_first": "linear classes first", "simple_first": "simple functions first"}


def show(view: state.View) -> None:
    """Shares of the explainable bits in one order of the classes or the other."""
    order = link.choose(
        "Order in which classes are added", selection.ORDERS, "order", show=WORDS.__getitem__, pills=True
    )
    state.chart(
        view,
        "decomposition",
        "Each class gets the bits that the classes below it could not explain, so the shares sum to 1. Compare both "
        "orders: a share that shrinks when it comes second was shared between the two.",
        **view.chosen,
        arm=order,
    )
    st.caption("Hatched: nothing was shared out at that site.")
