"""Site: several runs as a folder of pages, to be put beside a paper: an index, a report and cards of each run."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

import json
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from probekit.errors import BadInput
from probekit.results.compare import Comparable
from probekit.results.headline import finding, level_words
from probekit.results.report.card import card_page, cards
from probekit.results.report.markup import Markup, document, el, table
from probekit.results.report.page import report
from probekit.results.selection import default_behaviour, site_label
from probekit.results.text import value_text


def site(runs: Sequence[Comparable], title: str = "probekit runs") -> Iterator[tuple[str, str]]:
    """(file name, text) of every file of the folder; `index.html` comes last, so that it names only what is there.

    Raises BadInput for no runs, and for two of one name.
    """
    names = [run.name for run in runs]
    if not runs or len(set(names)) < len(names):
        raise BadInput(f"a site is of runs with a name each; found {', '.join(names) or 'none'}.")
    index = []
    for run in runs:
        yield f"{run.name}.html", report(run)
        made = cards(run)
        for i, one in enumerate(made):
            yield f"{run.name}.card-{i}.html", card_page(one)
        yield f"{run.name}.cards.json", json.dumps(made, indent=1, allow_nan=False) + "\n"
        index.append((run, made))
    yield "index.html", document(title, el("h1", title), _index(index))


def _index(made: Sequence[tuple[Comparable, list[dict]]]) -> Markup:
    """A line per run, with its finding and its pages."""
    rows = []
    for run, found in made:
        frame = run.records
        row = finding(frame)
        who = (
            "" if row is None else level_words(row["level"], row["source"], None if row.isna()["k"] else int(row["k"]))
        )
        where = "no site was chosen" if row is None else f"{who} at {site_label(row['hook'])}"
        links = [
            [el("a", one["behaviour"], href=quote(f"{run.name}.card-{i}.html")), " "] for i, one in enumerate(found)
        ]
        model = str(frame["model"].iloc[0]) if len(frame) else ""
        rows.append((el("a", run.name, href=quote(f"{run.name}.html")), model, default_behaviour(frame), where,
                     "" if row is None else value_text(row), links))  # fmt: skip
    return table(("run", "model", "behaviour", "what", "unexplained", "cards"), rows)
