"""Report: a run as one file that needs nothing else, as a card, and several runs as a folder of pages.

Figures are drawn as SVG here: the library of the interactive ones alone is larger than a report may be (4.5 of 3 MB),
and needs a browser to run scripts, which these pages forbid.
"""
