"""On which examples? The worst of one reader first, how missed bits are shared out, pairs that are read alike."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false, reportAssignmentType=false
# (what indexing a frame gives back depends on values, which pandas does not express in types)
from typing import Any

import pandas as pd
import streamlit as st

from leakboard import link, state
from probekit.errors import ProbekitError
from probekit.results import details, examples, rowtext, selection
from probekit.results.text import number, value_text

MOST = 12
LONG = 600  # letters of a text that are shown
SHADES = ("green", "gray", "orange", "red")  # by how much more is missed than on average


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
        default = clicked if clicked in hooks else found["hook"] if found is not None else hooks[-1]
        hook = link.choose("Hook point", hooks, "row-hook", default=default if default in hooks else hooks[-1],
                           show=selection.site_label, width=200)  # fmt: skip
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


def worst(rows: pd.DataFrame, mean: float) -> None:
    """A card for each of the rows that are missed most."""
    st.subheader("Missed most")
    if rows.empty:
        st.text("No test row is left by these filters.")
        return
    for _, row in rows.head(MOST).iterrows():
        with st.container(border=True):
            shade = SHADES[min(3, int(max(0.0, row["missed_bits"]) / max(mean, 1e-9)))]
            st.markdown(f":{shade}-badge[{number(row['missed_bits'])} bits missed] {state.plain(laws(row))}")
            st.text(clipped(row["text"]))
            place = f"example {int(row['example'])}, token {int(row['position'])}, {row['domain']}"
            st.caption(state.plain(f"group {row['group']}, {place}"))


def laws(row: pd.Series) -> str:
    """What the model did, beside what the reader and the input alone said of it."""
    did = f"the model: {row['outcome']}" + ("" if pd.isna(row["probability"]) else f" ({number(row['probability'])})")
    if row["ceiling_bits"] < 1e-9:  # one answer is certain, so that bits are those of its probability
        return (
            f"{did}; the reader gave it {number(2 ** -row['bits'])}, the input alone {number(2 ** -row['floor_bits'])}"
        )
    alone = row["floor_bits"] - row["ceiling_bits"]
    return f"{did}; the reader misses {number(row['missed_bits'])} bits of its law, the input alone {number(alone)}"


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
worst(left, rows.attrs["missed"])
if len(left):
    about = f"run {view.run.name} · {selection.vocabulary(asked['level'])} at {selection.site_label(asked['hook'])}"
    with st.container(border=True):
        made = details.missed_bits(left, template=view.template, about=about)
        state.draw(made, "missed", "Means hide the dangerous cases: the tail is what a mean of few bits can hold.")
pairs(view, asked)
surely_wrong(view, asked)
