"""On which examples? The worst of one reader first, how missed bits are shared out, pairs that are read alike."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false, reportAssignmentType=false, reportCallIssue=false
from typing import Any

import pandas as pd
import streamlit as st

from leakboard import link, state
from probekit.errors import ProbekitError
from probekit.results import boards, details, examples, rowtext, selection
from probekit.results.text import number, value_text

MOST = 12
LONG = 600  # letters of a text that are shown
NUMBERED = 12  # stretches of a text, up to which each has its bits behind it
STRETCHES = 60  # of a text, each with a colour of its own
RELIABLE = "On the line the reader is right as often as it is sure; below it, it is surer than it should be."
SHADES = ("green", "gray", "orange", "red")  # by how much more is missed than on average
ADDED = ("red", "gray", "blue", "green")  # by what is added to the input alone, of what that leaves on average
COLOURS = {"missed": "bits missed", "added": "what the reader adds"}


def reader(view: state.View) -> dict[str, Any]:
    """The cell that rows are of: at first that of the headline."""
    found, read = view.found, view.read
    read = read[read["value"].notna() & ~read["level"].isin(["prior", "baseline"])]
    levels = selection.levels(read)
    if not levels:
        st.text("Nothing was read with a value, so there are no rows of a reader.")
        st.stop()
    with st.container(horizontal=True):
        first = found["level"] if found is not None and found["level"] in levels else levels[-1]
        level = link.choose("Level", levels, "row-level", default=first, show=selection.vocabulary, width=200)
        of_level = read[read["level"] == level]
        hooks = selection.hooks(of_level)
        clicked = link.kept().get("hook")
        default = clicked if clicked in hooks else found["hook"] if found is not None else ""
        default = default if default in hooks else hooks[len(hooks) // 2]
        hook = link.choose("Hook point", hooks, "row-hook", default=default, show=selection.site_label, width=200)
        here = of_level[of_level["hook"] == hook]
        ks = sorted(int(k) for k in here["k"].dropna().unique())
        sources = [source for source in here["source"].unique() if source]
        asked = {"hook": hook, "level": level, "behaviour": view.behaviour, "position": view.position}
        if len(sources) > 1:
            asked["source"] = link.choose("Source", sources, "row-source", width=180)
        if len(ks) > 1:
            asked["k"] = link.choose("k", ks, "row-k", width=100)
    return asked


def filtered(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one outcome, domain and group."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        for name in ("outcome", "domain"):
            known = ["all", *sorted(rows[name].dropna().astype(str).unique())]
            if len(known) > 2:
                wanted = link.choose(name.capitalize(), known, f"row-{name}", width=180)
                rows = rows if wanted == "all" else rows[rows[name].astype(str) == wanted]
        sought = link.search("Group or text", "row-find", width=220)
    if sought:
        text = rows["group"].astype(str) + " " + rows["text"].astype(str)
        rows = rows[text.str.contains(sought, case=False, regex=False)]
    return rows


def worst(view: state.View, rows: pd.DataFrame, every: pd.DataFrame) -> None:
    """A card for each of the rows that are missed most. every: all rows of the reader, unfiltered."""
    st.subheader("Missed most")
    if rows.empty:
        st.text("No test row is left by these filters.")
        return
    shown, mean = rows.head(MOST), every.attrs["missed"]
    several, by, unit = bool(every["example"].duplicated().any()), "missed", mean
    if several:
        by = link.choose("Stretches show", list(COLOURS), "row-colour", show=lambda one: COLOURS[one], width=220)
        unit = mean if by == "missed" else every.attrs["floor_missed"]
        st.caption(legend(by))
    else:
        st.caption("The run reads one token of each example: no other has bits of its own to be coloured by. A rule of "
                   "positions that reads several gives each its own.")  # fmt: skip
    features = state.table_of(view.run, "features")
    if features is not None and any(boards.grid(list(names)) for names in features["targets"].iloc[:1]):
        classes = sorted({*features["classes"].iloc[0]} - {"empty", "none"})
        marks = ", ".join(f"{how} is {state.plain(one)}" for how, one in zip(("full", "a ring"), classes, strict=False))
        st.caption(f"Boards: {marks}; × is the model's likeliest, ○ the reader's; framed squares are decoded wrongly.")
    for _, row in shown.iterrows():
        with st.container(border=True):
            drawn = board(view, row, features)
            left, right = st.columns([3, 2]) if drawn else (st.container(), None)
            with left:
                st.markdown(f":{shade(row['missed_bits'], mean)}-badge[{number(row['missed_bits'])} bits missed] "
                            f"{state.plain(laws(row))}")  # fmt: skip
                same = every[every["example"] == row["example"]]
                st.markdown(coloured(row, same, by, unit))
                place = f"example {int(row['example'])}, token {int(row['position'])}, {row['domain']}"
                if several:
                    place += (
                        f"; over its {len(same)} tokens the reader adds {number(examples.added_bits(same).sum())} bits"
                    )
                st.caption(state.plain(f"group {row['group']}, {place}"))
            if drawn is not None and right is not None:
                with right:
                    st.image(drawn[0])
                    st.caption(drawn[1])


def shade(missed: float, mean: float) -> str:
    """The colour of so many missed bits, beside what is missed on average."""
    return SHADES[min(3, int(max(0.0, missed) / max(mean, 1e-9)))]


def shade_added(bits: float, left: float) -> str:
    """The colour of so many bits that a reader adds, beside what the input alone leaves on average."""
    part = bits / max(left, 1e-9)
    return ADDED[0 if part < -0.1 else 1 if part < 0.1 else 2 if part < 1 else 3]


def legend(by: str) -> str:
    """What the shades of stretches mean, in their own colours."""
    if by == "missed":
        said = "A stretch of text is coloured by what the reader misses at the token that ends it, where it is read, "
        words = dict(zip(SHADES, ("less than average", "up to twice", "up to three times", "more"), strict=True))
    else:
        said = ("A stretch of text is coloured by what the reader adds to the input alone at the token that ends it. "
                "Over all test rows these bits add up to the share that it explains; a stretch is ")  # fmt: skip
        words = dict(zip(ADDED, ("misled", "hardly helped", "helped", "helped by more than the average leaves"),
                         strict=True))  # fmt: skip
    shown = " ".join(f":{name}-background[{word}]" for name, word in words.items())
    return f"{said}{'and ' * (by == 'missed')}followed by these bits: {shown}"


def coloured(row: pd.Series, same: pd.DataFrame, by: str, unit: float) -> str:
    """The text of a row as markdown: each stretch in the shade of what is told of the token that ends it.

    same: all rows of the example. by: `missed` bits or what is `added` to the input alone; unit: their mean, or what
    that leaves. The text of an earlier token is the beginning of that of a later one, unless the run cut it; then, and
    where no other token is read, nothing is coloured.
    """
    text = row["text"]
    told = same["missed_bits"] if by == "missed" else examples.added_bits(same)
    before = same.assign(told=told)[(same["position"] <= row["position"]) & same["text"].notna()]
    parts: list[tuple[str, float]] = []
    at = 0
    for _, one in before.sort_values("position").iterrows():
        if not isinstance(text, str) or not text.startswith(one["text"]):
            return state.plain(clipped(text))
        parts.append((text[at : len(one["text"])], float(one["told"])))
        at = len(one["text"])
    if len(parts) < 2 or at < len(str(text)):
        return state.plain(clipped(text))
    keep = parts[-STRETCHES:]
    said = ["… "] * (len(keep) < len(parts))
    for words, value in keep:
        inner, blank = words.strip(), " " * words.startswith(" ")
        bits = f" :small[{number(value)}]" if len(keep) <= NUMBERED else ""
        colour = shade(value, unit) if by == "missed" else shade_added(value, unit)
        said.append(f"{blank}:{colour}-background[{state.plain(inner)}]{bits} " if inner else " ")
    return "".join(said)


def board(view: state.View, row: pd.Series, features: pd.DataFrame | None) -> tuple[str, str] | None:
    """The board of a row as it is and as it was decoded at the site, and how to read it; None where there is none."""
    if features is None:
        return None
    found = examples.squares(features, row)
    for name, squares in found.groupby("feature", sort=False):
        letters = {str(row["outcome"]): "×"}
        if "said" in row and pd.notna(row["said"]) and row["said"] != row["outcome"]:
            letters |= {str(row["said"]): "○"}
        if drawn := boards.board_svg(squares, letters, view.template):
            at = state.plain(selection.site_label(row["hook"]))
            wrong = f"{boards.n_wrong(squares)} of {len(squares)} wrong"
            return drawn, f"{state.plain(name)}: as it is, and as decoded at {at}, {wrong}"
    return None


def laws(row: pd.Series) -> str:
    """What the model did, beside what the reader and the input alone said of it."""
    did = f"the model: {row['outcome']}" + ("" if pd.isna(row["probability"]) else f" ({number(row['probability'])})")
    if "said" in row and pd.notna(row["said"]):
        did += f"; the reader: {row['said']} ({number(row['confidence'])})"
        if row["said"] != row["outcome"] and row["agreed"] >= 0.005:
            did += f", which the model gives {number(row['agreed'])}"
    if row["ceiling_bits"] < 1e-9:  # one answer is certain, so that bits are those of its probability
        right = number(2 ** -row["bits"])
        return f"{did}; to what is so the reader gave {right}, the input alone {number(2 ** -row['floor_bits'])}"
    alone = row["floor_bits"] - row["ceiling_bits"]
    return f"{did}; the input alone misses {number(alone)} bits"


def clipped(text: object) -> str:
    said = "(no text was kept)" if pd.isna(text) else " ".join(str(text).split())
    return said if len(said) <= LONG else f"{said[: LONG // 2]} … {said[-LONG // 2 :]}"


def pairs(view: state.View, asked: dict[str, Any]) -> None:
    """Rows that the reader cannot tell apart and the model treats differently, what differs in brackets."""
    st.subheader("Read alike, treated differently")
    level = asked["level"] if asked["level"] in ("linear", "directions") else "linear"
    if level != asked["level"]:
        st.caption("Pairs are kept of linear and directions; these are of linear at the same site.")
    try:
        where = {"behaviour": view.behaviour, "position": view.position, "hook": asked["hook"]}
        k = asked.get("k") if level == "directions" else None
        found = examples.counterexamples(view.run, **where, level=level, k=k)
    except ProbekitError as error:
        st.caption(state.plain(error))
        return
    st.markdown(state.plain(rowtext.verdict(found.attrs, len(found))))
    for _, pair in found.iterrows():
        with st.container(border=True):
            st.markdown(f":orange-badge[{number(pair['divergence_bits'])} bits apart] read more alike than "
                        f"{100 - pair['percentile']:.1f} % of random pairs")  # fmt: skip
            texts = rowtext.differing(str(pair["text_a"]), str(pair["text_b"]), LONG)
            for side, text in zip("ab", texts, strict=True):
                st.text(f"{side.upper()}  {text}")
                did = f"{pair[f'outcome_{side}']} ({number(pair[f'probability_{side}'])})"
                st.caption(state.plain(f"{side.upper()}: {did}, group {pair[f'group_{side}']}"))


def surely_wrong(view: state.View, asked: dict[str, Any]) -> None:
    """Answers of `linear` that are confident, consistent and wrong: how often, and which."""
    st.subheader("Sure, consistent and wrong")
    which = {"behaviour": view.behaviour, "position": view.position, "hook": asked["hook"]}
    try:
        rates, rows = examples.plausible_rates(view.run, **which), examples.plausible(view.run, **which)
    except ProbekitError as error:
        st.caption(state.plain(error))
        return
    said = [value_text(row) for _, row in rates.rename(columns={"rate": "value"}).iterrows()]
    wrong = [number(value) for value in rates["wrong_of_confident"]]
    told = pd.DataFrame({"domain": rates["domain"], "such answers": said, "wrong, of confident ones": wrong,
                         "test rows": rates["n"], "groups": rates["groups"]})  # fmt: skip
    st.dataframe(told, hide_index=True, width="stretch", height="content")
    st.caption(
        "Shares of test rows. Confident: as the top fifth is where it was fitted. Consistent: with the rows that "
        "should be answered alike."
    )
    if rows.empty:
        st.text("None of the test rows is such an answer.")
        return
    shown = rows[["said", "confidence", "outcome", "probability", "text", "domain", "group"]].round(2)
    st.dataframe(
        shown, hide_index=True, width="stretch", column_config={"text": st.column_config.TextColumn(width="large")}
    )


view = state.head("examples", "On which examples does it fail?")
asked = reader(view)
try:
    rows = examples.examples(view.run, **asked, most=10**9)
except ProbekitError as error:
    st.info(state.plain(error))
    st.stop()
left = filtered(rows)
worst(view, left, rows)
if len(left):
    about = f"run {view.run.name} · {selection.vocabulary(asked['level'])} at {selection.site_label(asked['hook'])}"
    with st.container(border=True):
        made = details.missed_bits(left, template=view.template, about=about)
        state.draw(made, "missed", "Means hide the dangerous cases: the tail is what a mean of few bits can hold.")
    if (made := details.reliability(left, template=view.template, about=about)) is not None:
        with st.container(border=True):
            state.draw(made, "reliability", RELIABLE)
pairs(view, asked)
surely_wrong(view, asked)
