"""Entry of the leakboard: `probekit dashboard RUNS` starts it. Navigation, the sidebar, and one sentence on FBU."""

import sys
from pathlib import Path

import streamlit as st

# In a checkout the package is a folder beside the library's; in an installed wheel this changes nothing.
if str(Path(__file__).parents[1]) not in sys.path:
    sys.path.append(str(Path(__file__).parents[1]))

from leakboard import state

st.set_page_config(page_title="leakboard", page_icon=":material/water_drop:", layout="wide")
# Not a folder named pages/: streamlit would run a page of it without this file when a link leads straight there.
page = st.navigation(
    {
        "": [st.Page("views/runs.py", title="Runs", icon=":material/folder_open:", default=True)],
        "What leaks": [
            st.Page("views/frontier.py", title="Frontier", icon=":material/trending_down:"),
            st.Page("views/leak_map.py", title="Leak map", icon=":material/grid_on:"),
            st.Page("views/layer_curves.py", title="Layer curves", icon=":material/show_chart:"),
            st.Page("views/decomposition.py", title="Decomposition", icon=":material/stacked_line_chart:"),
            st.Page("views/causal.py", title="Causal view", icon=":material/account_tree:"),
            st.Page("views/transfer.py", title="Transfer", icon=":material/sync_alt:"),
        ],
        "What to trust": [
            st.Page("views/claims.py", title="Claims", icon=":material/gavel:"),
            st.Page("views/ontology.py", title="Ontology and floors", icon=":material/compare:"),
            st.Page("views/calibration.py", title="Calibration", icon=":material/straighten:"),
            st.Page("views/provenance.py", title="Provenance", icon=":material/fact_check:"),
        ],
    }
)
state.sidebar()
st.caption(
    "**FBU** is the fraction of a model's behaviour that a description leaves unexplained (its *leak*): "
    "0 explains all of it, 1 adds nothing to the best reader of the input alone, above 1 misleads."
)
page.run()
