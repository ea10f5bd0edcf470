"""The map and its cell; layer curves, positions, transfer, decomposition and the causal view as tabs."""

from leakboard import link, state
from leakboard.tabs import causal, cells, layers, shares, transfer

TABS = {
    "map": ("Map and cell", cells.show),
    "layers": ("Layer curves", layers.show),
    "position": ("Layer by position", layers.by_position),
    "transfer": ("Transfer", transfer.show),
    "decomposition": ("Decomposition", shares.show),
    "causal": ("Causal view", causal.show),
}

view = state.head("map")
tab = link.choose("Tab", list(TABS), "tab", show=lambda one: TABS[one][0], pills=True, label_visibility="collapsed")
state.titled("Map" if tab == "map" else TABS[tab][0], view.run.name)
TABS[tab][1](view)
