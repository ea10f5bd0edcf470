"""The page's frame: six pages, links between them that keep what is selected, and one sentence on FBU."""

import sys
from pathlib import Path

import streamlit as st

# In a checkout the package is a folder beside the library's; in an installed wheel this changes nothing.
if str(Path(__file__).parents[1]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[1]))

from leakboard import link, state

st.set_page_config(page_title="leakboard", page_icon=str(Path(__file__).with_name("icon.png")), layout="wide")
# Not a folder named pages/: streamlit would run a page of it without this file when a link leads straight there.
# No icon of a page: streamlit would ask a font server for it each time.
pages = {name: st.Page(path, title=state.TITLES[name], default=name == "runs") for name, path in state.PAGES.items()}
page = st.navigation(list(pages.values()), position="hidden")
link.begin()
# White on the theme's own blue is too pale to read in the dark; a frame says as well what is picked.
st.html(
    "<style>[data-tag] { background: transparent !important; border: 1px solid currentColor !important; }"
    "[data-tag], [data-tag] * { color: inherit !important; }</style>"
)
with st.container(horizontal=True, key="pages"):
    for name, other in pages.items():
        st.page_link(other, label=state.TITLES[name], query_params=link.kept())
st.caption(
    "**FBU** is the fraction of a model's behaviour that a description leaves unexplained (its *leak*): "
    "0 explains all of it, 1 adds nothing to the best reader of the input alone, above 1 misleads."
)
try:
    page.run()
finally:
    link.end()
