"""What `probekit dashboard` hands to streamlit: the page, behind the check of who asks."""

import sys
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

# In a checkout the package is a folder beside the library's; in an installed wheel this changes nothing.
if str(Path(__file__).parents[1]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[1]))

from leakboard.guard import ThisMachine

app = st.App(Path(__file__).with_name("app.py"), middleware=[Middleware(ThisMachine)])
