"""A run as one page: story, map, the chosen cell, examples, another run beside it, trust, provenance."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from probekit.errors import BadInput, RunError
from probekit.results.boards import board_svg, n_wrong
from probekit.results.claims import CLAIMS, judge_each, to_read
from probekit.results.compact import Grid
from probekit.results.compare import Comparable, Comparison, compare
from probekit.results.examples import counterexamples, examples, plausible, plausible_rates, squares
from probekit.results.headline import headline, level_words
from probekit.results.report.drawings import bar, curve_of, curves
from probekit.results.report.markup import Markup, document, el, table
from probekit.results.reported import Reported, beside
from probekit.results.rowtext import differing
from probekit.results.selection import behaviours, site_label
from probekit.results.sidetext import MEANING, cell_rows, changed_words, comparable_rows, usual_cells
from probekit.results.story import Story, story
from probekit.results.summary import summary
from probekit.results.tables import decomposition, layer_curves, provenance
from probekit.results.text import number, value_text
from probekit.results.trust import trust_frame

MOST_BEHAVIOURS = 6  # that are told of after the first
MOST_TEXT = 1_200  # characters of an example, of which the end says most
STATES = {"passed": "passed", "failed": "failed", "not measured": "unmade"}
_REVERSES = {True: "yes", False: "no", None: "not measured"}


def report(
    run: Comparable, *, behaviour: str | None = None, domain: str | None = None, position: str | None = None,
    other: Comparable | None = None, previous: Comparable | None = None, reported: Sequence[Reported] = (),
) -> str:  # fmt: skip
    """A run as one HTML page that loads nothing and runs nothing.

    run: as `open_run` opens it. behaviour: the one that is told in full, the first when left out. other: a run that is
    set beside it as B. previous: the run before it. reported: published numbers, drawn open.
    """
    told = story(run, behaviour=behaviour, domain=domain, position=position, previous=previous)
    at = {"behaviour": told.behaviour or None, "domain": domain, "position": position}
    parts: list[tuple[str, str, Iterator[Any]]] = [
        ("map", "Where", _map(run, at)),
        ("cell", "The chosen cell", _cell(run, told, at)),
        ("change", "What would change this", _changes(told)),
        ("examples", "On which examples", _examples(run, told, at)),
        ("published", "Published numbers", _published(run, told, reported)),
        ("compare", "Beside another run", _compared(run, other, at)),
        ("trust", "How far to trust it", _trusted(told)),
        ("claims", "What may be claimed", _claimed(run, told, at)),
        ("others", "Other behaviours", _others(run, told, domain, position)),
        ("provenance", "Provenance", _provenance(run)),
    ]
    made = [(key, title, list(inside)) for key, title, inside in parts]
    made = [(key, title, inside) for key, title, inside in made if inside]
    links = el("nav", [el("a", title, href=f"#{key}") for key, title, _ in made])
    top = [*_head(run, told), links, _strip(told), *_curve(run, told, at, reported)]
    return document(f"{run.name}: {told.behaviour}", *top,
                    [el("section", el("h2", title, id=key), inside) for key, title, inside in made])  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ the story


def _head(run: Comparable, told: Story) -> Iterator[Markup]:
    frame = run.records
    first = frame.iloc[0] if len(frame) else {}
    status = str(getattr(run, "status", {}).get("updated", ""))[:16].replace("T", " ")
    what = [first.get("model"), first.get("revision"), f"measured {status} UTC" if status else "", f"run {run.name}"]
    yield el("h1", f"{told.behaviour or 'Nothing'}: how much of it is explained, and where")
    yield el("p", ", ".join(str(one) for one in what if one), class_="quiet")
    if problem := getattr(run, "problem", ""):
        yield el("p", problem, class_="beware")
    for i, sentence in enumerate(told.sentences):
        yield el("p", sentence, class_=None if i else "lead")
    for warning in told.headline.warnings:
        yield el("p", warning, class_="beware")


def _strip(told: Story) -> Markup:
    return el("div", [
        el("div", el("span", panel.name), el("strong", panel.title), el("p", panel.said),
           el("p", el("code", panel.fill)) if panel.fill else None)
        for panel in told.strip
    ], class_="strip")  # fmt: skip


def _curve(run: Comparable, told: Story, at: Mapping[str, Any], reported: Sequence[Reported]) -> Iterator[Markup]:
    """Unexplained by site, of a few levels, with the random twin; sites without a value are hatched."""
    rows = layer_curves(run.records, **at)
    if rows.empty or rows["site"].nunique() < 2:
        return
    sites = list(rows.sort_values("site_order", kind="stable")["site"].unique())
    rows = rows.assign(place=rows["site"].map({site: i for i, site in enumerate(sites)}))
    plain = rows[(rows["control"] == "") & ~rows["level"].isin(["prior", "baseline"])]
    lines = [curve_of(part, "place", str(label), index=i) for i, (label, part) in enumerate(_few(plain, told))]
    twin = rows[(rows["control"] == "random_twin") & (rows["level"] == "linear")]
    if len(twin):
        lines.append(curve_of(twin, "place", "linear, untrained network", index=0, control="random_twin"))
    empty = [(int(place), str(part["na_reason"].mode().iloc[0])) for place, part in plain.groupby("place")
             if part["value"].isna().all()]  # fmt: skip
    marks = [(one.source, one.value, one.low, one.high, sites.index(site_label(one.hook))) for one in reported
             if one.metric == "fbu" and one.is_of(told.behaviour) and site_label(one.hook) in sites]  # fmt: skip
    below = f"{told.behaviour}, run {run.name}: share unexplained by hook point; 0 explains all, 1 adds nothing"
    yield el("figure", curves(lines, sites, "Where does it become readable?", below, empty, marks),
             el("figcaption", "Bands: 95 % over groups.", " Hatched: no value, and why." if empty else "",
                " Open marks: published numbers." if marks else ""))  # fmt: skip


def _few(plain: pd.DataFrame, told: Story) -> list[tuple[object, pd.DataFrame]]:
    """The curves that are drawn: the finding's level, linear, nonlinear, a hypothesis; no more than five."""
    wanted = [*([told.found["level"]] if told.found is not None else []), "linear", "nonlinear"]
    wanted += [level for level in plain["level"].unique() if level.startswith("hypothesis:")]
    parts = []
    for level in dict.fromkeys(wanted):
        rows = plain[plain["level"] == level]
        if told.found is not None and level == told.found["level"]:
            rows = rows[rows["source"] == told.found["source"]]
        parts += list(rows.groupby("label", sort=False))
    return (parts or list(plain.groupby("label", sort=False)))[:5]


# ----------------------------------------------------------------------------------------------------- map and one cell


def _map(run: Comparable, at: Mapping[str, Any]) -> Iterator[Markup]:
    shown = summary(run.records, **at)
    if shown.grid.sites:
        yield el("h3", "Read: is it there?")
        yield _grid(shown.grid)
    if (run.records["metric"] == "replace").any():
        kept = summary(run.records, **at, metric="replace")
        if kept.grid.sites:
            yield el("h3", "Replaced: does the model run on it?")
            yield el("p", f"{kept.title}.", class_="quiet")
            yield _grid(kept.grid)


def _grid(grid: Grid) -> Markup:
    return el("div", Markup(grid.html()), class_="wide map")  # `Grid.html` escapes what it is made of


def _cell(run: Comparable, told: Story, at: Mapping[str, Any]) -> Iterator[Markup]:
    found = told.found
    if found is None:
        yield el("p", "No site but the unembedding's was chosen on selection rows: there is no finding to look into.")
        return
    who = level_words(found["level"], found["source"], _k_of(found["k"]))
    bits = "" if pd.isna(found["floor_bits"]) else (
        f" The floor misses {number(found['floor_bits'])} bits a row, the model leaves {number(found['ceiling_bits'])} "
        "open itself."
    )  # fmt: skip
    yield el("p", f"{who[0].upper()}{who[1:]} at {site_label(found['hook'])}: {value_text(found)} unexplained, over "
                  f"{int(found['n']):,} test rows in {int(found['groups']):,} groups.{bits}")  # fmt: skip
    shares = decomposition(run.records, **at)
    here = shares[(shares["hook"] == found["hook"]) & shares["value"].notna()]
    if len(here):
        below = f"{told.behaviour} at {site_label(found['hook'])}, run {run.name}: shares of what the input leaves open"
        pairs = list(zip(here["label"], here["value"].astype(float), strict=True))
        yield el("figure", bar(pairs, "Where do the bits go?", below))
    yield from _by_k(run, told, found, at)


def _by_k(run: Comparable, told: Story, found: pd.Series, at: Mapping[str, Any]) -> Iterator[Markup]:
    """Unexplained against k at the chosen site, a line per vocabulary."""
    rows = layer_curves(run.records, **at, k="all")
    rows = rows[(rows["hook"] == found["hook"]) & (rows["control"] == "") & rows["k"].notna()]
    rows = rows[rows["level"].isin(["neurons", "directions"]) | rows["level"].str.startswith("simple:")]
    ks = sorted(int(k) for k in rows["k"].unique())
    if len(ks) < 2:
        return
    rows = rows.assign(place=rows["k"].map({k: i for i, k in enumerate(ks)}))
    rows["name"] = rows["label"].str.replace(r", k=\d+$", "", regex=True)
    lines = [
        curve_of(part, "place", str(name), index=i) for i, (name, part) in enumerate(rows.groupby("name", sort=False))
    ]
    below = f"{told.behaviour} at {site_label(found['hook'])}, run {run.name}: share unexplained by k"
    yield el("figure", curves(lines[:6], [f"k = {k}" for k in ks], "How many directions does it take?", below))


def _changes(told: Story) -> Iterator[Markup]:
    if told.changes:
        rows = [(one.choice, one.now, one.other or "", _REVERSES[one.reverses], [one.said, _filled(one.fill)])
                for one in told.changes]  # fmt: skip
        yield table(("choice", "concluded now", "with the other choice", "reversed", ""), rows)


def _filled(fill: str) -> Markup | None:
    return el("div", el("code", fill)) if fill else None


# ------------------------------------------------------------------------------------------------------------- examples


def _examples(run: Comparable, told: Story, at: Mapping[str, Any]) -> Iterator[Markup]:
    found = told.found
    which = {"behaviour": at["behaviour"], "position": at["position"]}
    reader = {} if found is None else {
        "hook": found["hook"], "level": found["level"], "source": found["source"] or None,
        "k": _k_of(found["k"]),
    }  # fmt: skip
    worst, why = _rows_of(lambda: examples(run, **which, **reader))
    if worst is None:
        yield el("p", why, class_="quiet")
        return
    missed, alone = (number(worst.attrs[name]) for name in ("missed", "floor_missed"))
    yield el("p", f"The {len(worst)} test rows, of {worst.attrs['n']:,}, that the chosen reader misses most. It misses "
                  f"{missed} bits a row on average, the input alone {alone}.")  # fmt: skip
    for row in worst.to_dict("records"):
        sure = "" if pd.isna(row["probability"]) else f" ({number(row['probability'])})"
        said = f"{number(row['missed_bits'])} bits missed; behaviour '{row['outcome']}'{sure}; group {row['group']}"
        yield _row(said, _cut(row["text"]), *_board(run, row))
    pairs, _ = _rows_of(lambda: counterexamples(run, **which, hook=reader.get("hook"), most=5))
    if pairs is not None and len(pairs):
        yield el("h3", "Read alike, treated differently")
        told_of = pairs.attrs
        yield el("p", f"Pairs that {level_words(told_of['level'], '', _k_of(told_of['k']))} at "
                      f"{site_label(told_of['hook'])} cannot tell apart.", class_="quiet")  # fmt: skip
        yield from map(_pair, pairs.to_dict("records"))
    yield from _plausible(run, which, reader.get("hook"))


def _k_of(k: Any) -> int | None:
    return None if pd.isna(k) else int(k)


def _rows_of(made: Callable[[], pd.DataFrame]) -> tuple[pd.DataFrame | None, str]:
    """The rows, or why there are none: an older run kept none, another level has no pairs."""
    try:
        return made(), ""
    except (BadInput, RunError) as error:
        return None, str(error)


def _row(said: str, text: object, *more: Markup) -> Markup:
    return el("div", el("p", said, class_="quiet"), el("p", text, class_="text"), *more, class_="row")


def _board(run: Comparable, row: Mapping[str, Any]) -> Iterator[Markup]:
    """The board of a row as it is and as it was decoded, where a hypothesis' features are the squares of one."""
    features, _ = _rows_of(lambda: run.table("features"))  # what older runs lack, and runs without a hypothesis
    if features is None:
        return
    for name, found in squares(features, row).groupby("feature", sort=False):
        if drawn := board_svg(found, {str(row["outcome"]): "×"}):
            said = (
                f"{name} as it is (×: the likeliest move) and as decoded here: {n_wrong(found)} of {len(found)} wrong"
            )
            yield el("figure", Markup(drawn), el("figcaption", said), class_="board")


def _cut(text: object) -> str:
    plain = "(no text)" if pd.isna(text) else str(text)
    return plain if len(plain) <= MOST_TEXT else f"{plain[:300]} … {plain[-(MOST_TEXT - 300) :]}"


def _pair(row: Mapping[str, Any]) -> Markup:
    texts = differing(str(row["text_a"]), str(row["text_b"]), MOST_TEXT)
    sides = [el("p", el("span", f"{row[f'outcome_{side}']} ({number(row[f'probability_{side}'])})  ", class_="quiet"),
                _marked(text), class_="text") for side, text in zip("ab", texts, strict=True)]  # fmt: skip
    ratio = "" if row["ratio"] < 1 else f", {row['ratio']:.1f} times what two random rows do"
    said = f"Behaviour differs by {number(row['divergence_bits'])} bits{ratio}."
    return el("div", el("p", said, class_="quiet"), sides, class_="row")


def _marked(text: str) -> list[object]:
    """What `differing` puts in brackets, marked. A bracket of the text's own is marked, too: it does no harm."""
    parts: list[object] = []
    for i, piece in enumerate(text.split("[")):
        inside, closed, rest = piece.partition("]") if i else ("", "", piece)
        parts += [el("mark", inside), rest] if closed else [("[" if i else "") + (inside or rest)]
    return parts


def _plausible(run: Comparable, which: Mapping[str, Any], hook: str | None) -> Iterator[Markup]:
    rows, _ = _rows_of(lambda: plausible(run, **which, hook=hook, most=5))
    rates, _ = _rows_of(lambda: plausible_rates(run, **which, hook=hook))
    if rows is None or rates is None:
        return
    yield el("h3", "Confident, consistent and wrong")
    yield table(("situation", "share of rows", "rows", "groups"),
                [(one["domain"], value_text({**one, "value": one["rate"], "na_reason": ""}), f"{int(one['n']):,}",
                  f"{int(one['groups']):,}") for one in rates.to_dict("records")])  # fmt: skip
    for row in rows.to_dict("records"):
        yield _row(f"says '{row['said']}' ({number(row['confidence'])}); behaviour '{row['outcome']}' "
                   f"({number(row['probability'])}); {row['domain']}", _cut(row["text"]))  # fmt: skip


# ----------------------------------------------------------------------------------------- published, compared, trusted


def _published(run: Comparable, told: Story, reported: Sequence[Reported]) -> Iterator[Markup]:
    if reported:
        rows = beside(run.records, reported, behaviour=told.behaviour or None)
        yield table(("source", "where", "what", "published", "here", "apart"),
                    [(row["source"], row["where"], f"{row['metric']}, {row['level']}", number(row["value"]),
                      row["here"], row["said"]) for row in rows.to_dict("records")])  # fmt: skip


def _compared(run: Comparable, other: Comparable | None, at: Mapping[str, Any]) -> Iterator[Markup]:
    if other is None:
        return
    try:
        found = compare(run, other, **at)
    except BadInput as error:
        yield el("p", str(error), class_="beware")
        return
    yield from compared(found)


def compared(found: Comparison) -> Iterator[Markup]:
    """Two runs side by side, as a part of a page."""
    for sentence in found.sentences:
        yield el("p", sentence)
    yield table(("", f"A: {found.a}", f"B: {found.b}", ""), comparable_rows(found.comparable))
    if len(found.cells):
        yield el("h3", "Cells of both")
        yield table(("site", "level", "A", "B", "B - A [95 %]", ""), cell_rows(usual_cells(found.cells)))
        yield el("p", MEANING, class_="quiet")
    if len(found.changed):
        yield el("h3", "Examples that changed the most")
        yield from (_row(changed_words(row), _cut(row["text"])) for row in found.changed.to_dict("records"))


def _trusted(told: Story) -> Iterator[Markup]:
    rows = [
        (el("span", row["state"], class_=STATES[row["state"]]), f"{row['about']}: {row['check']}", row["said"],
         el("code", row["fill"]) if row["fill"] else "")
        for row in trust_frame(list(told.checks)).to_dict("records")
    ]  # fmt: skip
    yield table(("", "what", "found", "what fills it"), rows)


def _claimed(run: Comparable, told: Story, at: Mapping[str, Any]) -> Iterator[Markup]:
    """What may be said of the finding's reader at its site, at the usual margin."""
    found = told.found
    if found is None or found["hook"] == "":
        return
    records = run.records
    here = records[(records["behaviour"] == told.behaviour) & (records["hook"] == found["hook"])]
    asked = {"hook": found["hook"], "level": found["level"], "source": found["source"] or None, "k": _k_of(found["k"])}
    judged, why = _judged(lambda: judge_each(records, run.losses_of(*here["id"]), list(CLAIMS), **at, **asked)[0])
    usual = "a claim holds when each of its measures passes an equivalence test at a margin of .10"
    yield el("p", why or f"Of the chosen reader at {site_label(found['hook'])}; {usual}.", class_="quiet")
    for name, rows in judged.items():
        verdict = str(rows["verdict"].iloc[-1])
        shown = el("span", verdict, class_={"holds": "passed", "fails": "failed"}.get(verdict, "unmade"))
        yield el("h3", f"{name[0].upper()}{name[1:]}: ", shown)
        said = to_read(rows)
        yield table(list(said.columns), said.itertuples(index=False, name=None))


def _judged(made: Callable[[], dict[str, pd.DataFrame]]) -> tuple[dict[str, pd.DataFrame], str]:
    try:
        return made(), ""
    except (BadInput, RunError) as error:
        return {}, str(error)


def _others(run: Comparable, told: Story, domain: str | None, position: str | None) -> Iterator[Markup]:
    names = [name for name in behaviours(run.records) if name != told.behaviour]
    for name in names[:MOST_BEHAVIOURS]:
        try:
            yield el("p", headline(run.records, behaviour=name, domain=domain, position=position).sentences[0])
        except BadInput as error:  # this domain or position is not of that behaviour
            yield el("p", f"{name}: {error}")
    if len(names) > MOST_BEHAVIOURS:
        yield el("p", f"{len(names) - MOST_BEHAVIOURS} more behaviours are in the run.", class_="quiet")


def _provenance(run: Comparable) -> Iterator[Markup]:
    rows = provenance(run.records)
    if rows.empty:
        return
    for section, part in rows.groupby("section", sort=False):
        inside = table(("", ""), [(row["key"], rounded(row["value"])) for row in part.to_dict("records")])
        yield el("details", el("summary", str(section)), inside, class_=str(section) if section == "files" else None)


def rounded(text: str) -> str:
    """A number in four digits; what is no number as it is."""
    try:
        value = float(text)
    except ValueError:
        return text
    return text if value == int(value) else f"{value:.4g}"
