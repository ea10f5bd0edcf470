"""The map itself, read and replace side by side, and everything behind one of its cells."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from leakboard import data, link, state
from probekit.errors import BadInput, ProbekitError
from probekit.results import details, looks, maps, selection, tables, text
from probekit.results.headline import level_words
from probekit.results.tables import decomposition, transfer_matrix

WORDS = {"read": "read: is it there?", "replace": "replace: does it run on it?"}


def show(view: state.View) -> None:
    """Both maps, and the cell that was clicked or chosen; at first the one of the headline."""
    kinds = [kind for kind in WORDS if len(_rows(view, kind))]
    if not kinds:
        st.text("Nothing was read or replaced at a hook point of this behaviour.")
        return
    several = selection.ks(pd.concat([_rows(view, kind) for kind in kinds]), kinds[0])
    found = view.found
    with st.container(horizontal=True):
        metric = link.choose("A cell of", kinds, "metric", default=kinds[0], show=WORDS.__getitem__, width=220)
        k: Any = None
        if several:
            default = selection.default_k(_rows(view, kinds[0]), kinds[0])
            # so that the headline's own cell is on the map
            if found is not None and pd.notna(found["k"]) and found["k"] in several:
                default = int(found["k"])
            k = link.choose("k", [*several, "all"], "k", default=default, width=100)
        arm = _arm(view)
        picked = {kind: _table(view, kind, k, arm) for kind in kinds}
        hook, label = _chosen(picked[metric], found)
    if picked[metric].empty:
        st.text("Nothing was measured at this k.")
        return
    with st.container(horizontal=True):
        for kind in kinds:
            if len(picked[kind]):
                _map(view, kind, _asked(kind, k, arm), (hook, label) if kind == metric else None)
    st.caption(
        "Dark is explained, bright is not; orange misleads, purple is below 0. A row is a place in the network, input "
        "at the bottom; a column is a kind of description. Hatched: no value, the reason on hover. A dot: no better "
        "than its control. Click a cell, or choose it above."
    )
    rows = picked[metric]
    cell = rows[(rows["hook"] == hook) & (rows["label"] == label)]
    if cell.empty:
        st.text("This level was not measured at this hook point.")
    else:
        _cell(view, cell.iloc[0])
    state.numbers(rows, f"{view.run.name}-leak_map")


def _rows(view: state.View, metric: str) -> pd.DataFrame:
    return view.of(metric)


def _arm(view: state.View) -> str | None:
    """How what is replaced was replaced: at one site, from donors that are alike in it where that was measured."""
    there = [arm for arm in selection.REPLACE_ARMS if arm in set(_rows(view, "replace")["arm"])]
    there = [arm for arm in there if arm.startswith("single:")]
    if not there:
        return None
    first = next((arm for arm in ("single:matched", "single:random") if arm in there), there[0])
    return link.choose("Replaced", there, "arm", default=first, show=looks.arm_words, width=220)


def _asked(metric: str, k: Any, arm: str | None) -> dict[str, Any]:
    return {"metric": metric, "k": k} | ({"arm": arm} if metric == "replace" else {})


def _table(view: state.View, metric: str, k: Any, arm: str | None) -> pd.DataFrame:
    known = selection.ks(_rows(view, metric), metric)
    k = k if k == "all" or k in known else None
    return _told(view.frame, view.key, tuple((view.chosen | _asked(metric, k, arm)).items()))


def _chosen(table: pd.DataFrame, found: pd.Series | None) -> tuple[str, str]:
    """Hook point and level of the cell; at first those of the headline, which selection rows chose."""
    hooks = list(table.sort_values("site_order")["hook"].unique())
    labels = list(table.sort_values("level_order", kind="stable")["label"].unique())
    if not hooks:
        return "", ""
    first, level = hooks[len(hooks) // 2], "linear"
    if found is not None and found["hook"] in hooks:
        first = found["hook"]
        of_level = table[(table["level"] == found["level"]) & table["source"].isin([found["source"], ""])]
        level = next(iter(of_level["label"]), level)
    hook = link.choose("Hook point", hooks, "hook", default=first, show=selection.site_label, width=200)
    label = link.choose("Level", labels, "cell", default=level if level in labels else labels[0], width=240)
    return hook, label


@st.cache_resource(max_entries=32, show_spinner=False)
def _drawn(_frame: pd.DataFrame, key: tuple[str, str], template: looks.Template, asked: tuple) -> go.Figure:
    """A map without a chosen cell, not to be changed: what stays the same from click to click is drawn once."""
    return maps.leak_map(_frame, template=template, **dict(asked))


@st.cache_resource(max_entries=32, show_spinner=False)
def _told(_frame: pd.DataFrame, key: tuple[str, str], asked: tuple) -> pd.DataFrame:
    """The table behind a map, which is not to be changed."""
    return tables.leak_map(_frame, **dict(asked))


def _map(view: state.View, metric: str, asked: dict[str, Any], chosen: tuple[str, str] | None) -> None:
    if asked["k"] != "all" and asked["k"] not in selection.ks(_rows(view, metric), metric):
        asked = asked | {"k": None}
    made = _drawn(view.frame, view.key, view.template, tuple((view.chosen | asked).items()))
    if chosen is not None:
        made = maps.outlined(go.Figure(data=made.data, layout=made.layout), chosen, view.template)
    key = f"map-{metric}"

    def clicked() -> None:
        points = st.session_state[key]["selection"]["points"]
        if points and points[0].get("customdata"):
            _, hook, label = points[0]["customdata"][:3]
            link.chosen({"hook": hook, "cell": label, "metric": metric})

    columns = len(made.layout.xaxis.tickvals or ())
    with st.container(border=True, width=max(430, maps.map_width(columns))):
        st.plotly_chart(
            made, theme=None, config=looks.CONFIG, key=key, on_select=clicked, selection_mode="points",
            alt=f"Map of what is unexplained: {WORDS[metric]}",
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ one cell


def _cell(view: state.View, row: pd.Series) -> None:
    """One cell in a sentence, in bits, and beside what it has to be read with."""
    where = selection.site_label(row["hook"])
    st.subheader(f"{row['label']} at {where}")
    st.markdown(f"#### {state.plain(text.value_text(row))} unexplained")
    st.markdown(state.plain(sentence(row)))
    if beside := text.beside_value(row):
        st.text(beside)
    if row["metric"] == "read" and row["level"] == "linear" and row["hook"] == selection.unembedding(
        view.frame, view.behaviour):  # fmt: skip
        st.info("A linear reader here is the unembedding: what it finds is no finding.")
    _numbers(row)
    if row["note"]:
        st.text(row["note"])
    left, right = st.columns(2)
    with left:
        _controls(view, row)
        _shares(view, row)
        _reliability(view, row)
    with right:
        _by_k(view, row)
        _moved(view, row)
        _groups(view, row)


def sentence(row: pd.Series) -> str:
    """What a cell says, without a formula."""
    who = level_words(row["level"], row["source"], None if pd.isna(row["k"]) else int(row["k"]))
    if pd.isna(row["value"]):
        return f"{who}: no value, since {selection.na_words(row['na_reason'])}."
    if row["metric"] == "replace":
        return (
            f"When the model keeps {who} alone ({looks.arm_words(row['arm'])}), its answers move by {row['bits']:.3f} "
            f"bits of KL; the input leaves {row['floor_bits'] - row['ceiling_bits']:.3f} to explain."
        )
    missed, open_bits = row["bits"] - row["ceiling_bits"], row["floor_bits"] - row["ceiling_bits"]
    return (
        f"{who} misses {missed:.3f} bits an example beyond what the model leaves open itself; a reader of the input "
        f"alone misses {open_bits:.3f}."
    )


def _numbers(row: pd.Series) -> None:
    """The absolute figures. Under replace they are of KL, and no reader's."""
    replaced = row["metric"] == "replace"
    between = row["floor_bits"] - row["ceiling_bits"]
    bits = (
        [("KL with it kept, bits", row["bits"], "How far the answers move when this alone is kept."),
         ("floor - ceiling, bits", between, "What there is to explain: the scale of the share.")]
        if replaced else
        [("floor, bits", row["floor_bits"], "Best reader of the input alone, bits per example."),
         ("reader, bits", row["bits"], "This level at this hook point, bits per example."),
         ("ceiling, bits", row["ceiling_bits"], "The model's own entropy, bits per example.")]
    )  # fmt: skip
    bits += [("99th percentile", row["p99_bits"], "Missed bits: one example in a hundred is worse than this."),
             ("worst group", row["worst_group"], "Missed bits, mean over the worst group.")]  # fmt: skip
    with st.container(horizontal=True):
        for name, value, why in bits:
            st.metric(name, "NA" if pd.isna(value) else f"{value:.3f}", help=why, width=140)
        st.metric("pairs" if replaced else "test rows", f"{row['n']:,}", width=110)
        st.metric("groups", f"{row['groups']:,}", help="Independent groups behind the interval.", width=110)


def _controls(view: state.View, row: pd.Series) -> None:
    st.markdown("**Controls beside it**")
    found = tables.controls_of(view.frame, row)
    if found.empty:
        st.text("No control of this level was run at this hook point.")
        return
    for _, one in found.drop_duplicates(["control", "value"]).iterrows():
        name = f"**{state.plain(looks.control_words(one['control']))}** {state.plain(text.value_text(one))}"
        st.markdown(f"{name}  \n:gray[{state.plain(looks.control_reading(one['control']))}]")


def _shares(view: state.View, row: pd.Series) -> None:
    shares = decomposition(view.frame, **view.chosen)
    shares = shares[(shares["hook"] == row["hook"]) & shares["value"].notna()]
    if shares.empty:
        return
    st.markdown("**Where the bits go at this site**")
    told = [text.value_text(one) for _, one in shares.iterrows()]
    said = pd.DataFrame({"class": shares["label"], "share": shares["value"].clip(0, 1), "of the bits": told})
    bar = st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)
    st.dataframe(said, hide_index=True, width="stretch", height="content", column_config={"share": bar})


def _by_k(view: state.View, row: pd.Series) -> None:
    here = view.frame[view.frame["hook"] == row["hook"]]
    made = details.by_k(here, template=view.template, **view.chosen, hook=row["hook"], metric=row["metric"],
                       arm=row["arm"] or None)  # fmt: skip
    if made is not None:
        state.draw(made, "by-k", "How much more directions explain at this site; grey is random directions.")


def _reliability(view: state.View, row: pd.Series) -> None:
    """Whether the reader of the cell is right as often as it is sure, where the run keeps what it says of rows."""
    if row["metric"] != "read" or row["level"] == "prior" or pd.isna(row["value"]):
        return
    asked = {name: row[name] for name in ("hook", "behaviour", "position", "level", "source")}
    try:
        rows = view.run.rows(**asked, k=None if pd.isna(row["k"]) else int(row["k"]))
    except BadInput:  # the run kept no rows, which Examples says
        return
    except ProbekitError as error:
        st.error(f"**The rows of this run are damaged.** {state.plain(error)}", icon=":material/error:")
        return
    about = f"{row['label']} at {selection.site_label(row['hook'])}"
    if (made := details.reliability(rows, template=view.template, about=about)) is not None:
        state.draw(
            made, "reliability", "On the line it is right as often as it is sure; below, surer than it should be."
        )


def _moved(view: state.View, row: pd.Series) -> None:
    """Where else the reader of this site holds: its row of the transfer matrix."""
    moved = view.frame[(view.frame["metric"] == "transfer") & (view.frame["hook"] == row["hook"])
                       & (view.frame["behaviour"] == view.behaviour)]  # fmt: skip
    if moved.empty or row["level"] not in set(moved["level"]):
        return
    table = transfer_matrix(view.frame, behaviour=view.behaviour, position=view.position, hook=row["hook"],
                            level=row["level"])  # fmt: skip
    table = table[table["fit_domain"] == view.domain]
    st.markdown(f"**Fitted on {state.plain(view.domain)}, applied elsewhere**")
    said = pd.DataFrame(
        {"applied to": table["test_domain"], "T": [text.value_text(one) for _, one in table.iterrows()]}
    )
    st.dataframe(said, hide_index=True, width="stretch", height="content")
    st.caption("T: 0 loses nothing beside a reader fitted there, 1 is no better than the floor there.")


def _groups(view: state.View, row: pd.Series) -> None:
    st.markdown("**Groups with the most missed bits**")
    try:
        behind = data.losses(view.run, row["id"])
    except ProbekitError as error:
        st.error(f"**The losses of this run are damaged.** {state.plain(error)}", icon=":material/error:")
        return
    if behind.empty:
        st.text("No losses per group were kept for this cell.")
        return
    named = {"fbu": "unexplained", "numerator": "missed bits"}
    st.dataframe(behind.head(8)[["group", "fbu", "numerator", "n"]].round(3), hide_index=True, width="stretch",
                 column_config=named)  # fmt: skip
    st.caption(f"The worst of {len(behind)}: means hide the dangerous cases.")
