"""The causal view: what can be read against what the model runs on, one site in full, and what a dose does."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false
import pandas as pd
import streamlit as st

from leakboard import link, state
from probekit.results import causal, looks, tables, text, used
from probekit.results import selection as selection_of

HEADS = {
    "kept": ("kept", "Unexplained when it alone is kept, the rest of the site from random donors."),
    "alike": ("kept, matched", "The same with donors of nearly the same value of it."),
    "kept_mean": ("kept, mean", "The same with the mean in place of donors."),
    "erased": ("erased", "What is still done without it, of what the site does: 0 none of it, 1 it can go."),
    "erased_mean": ("erased, mean", "The same, replaced by its mean."),
    "erased_leace": ("erased, LEACE", "The same, all that is linear in its label gone."),
    "interchanged": ("exchanged", "Its part from a donor of another answer: 0 the answer follows as it does with all "
                     "of the site, 1 no more than with random directions."),
}  # fmt: skip


def in_words(table: pd.DataFrame) -> pd.DataFrame:
    """A row per direction set: each number with its interval, and that of random directions beside it."""

    def said(row: pd.Series, name: str) -> str:
        if pd.isna(row[name]):
            return ""
        return text.value_text({"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]})

    shown = {"directions": table["label"], "read": [said(row, "read") for _, row in table.iterrows()]}
    for name, (head, _) in HEADS.items():
        if table[name].notna().any():
            shown[head] = [said(row, name) for _, row in table.iterrows()]
            if table[f"random_{name}"].notna().any():
                shown[f"random {head}"] = [said(row, f"random_{name}") for _, row in table.iterrows()]
    return pd.DataFrame(shown)


def show(view: state.View) -> None:
    """Every direction set read and kept, one site in full, and what doses do."""
    st.markdown(f"**{state.plain(used.used(view.frame, **view.chosen))}**")
    _frontier(view)
    state.chart(
        view,
        "read_against_replace",
        "A point is a direction set at one site. On the dotted line the model runs on as much as can be read; above it "
        "something can be read that the model does not run on. Colour says what the directions were fitted to; what is "
        "read is that, what is kept is the behaviour. In the strip on the right no reader was fitted. Grey is what "
        "random directions and nothing at all leave.",
        **view.chosen,
    )
    mine = view.frame[(view.frame["behaviour"] == view.behaviour) & (view.frame["position"] == view.position)]
    mine = mine[(mine["fit_domain"] == view.domain) & (mine["test_domain"] == view.domain)]
    replaced = selection_of.hooks(mine[mine["arm"] != causal.ROLL_OUT], "replace")
    steered = selection_of.hooks(mine, "steer")
    sites = list(dict.fromkeys([*replaced, *steered]))
    if sites:
        default = causal.default_site(mine, view.behaviour, "replace" if replaced else "steer")
        st.subheader("One site")
        hook = link.choose("Hook point", sites, "edited", default=default, show=selection_of.site_label, width=220)
        if hook in replaced:
            _one_site(view, hook)
        if hook in steered:
            _steered(view, hook)
    if (mine["arm"] == causal.ROLL_OUT).any():
        st.subheader("Kept at one site after another")
        state.chart(
            view,
            "roll_out",
            "What is kept alone at the first sites, up to each: where the line rises, the error of one site is made "
            "worse by the next.",
            **view.chosen,
        )
    if (angles := state.table_of(view.run, "angles")) is not None:
        st.subheader("Between what reads and what mediates")
        st.dataframe(angles, hide_index=True, width="stretch")


def _frontier(view: state.View) -> None:
    """What a description explains for its complexity, when the model has to run on it."""
    rows = view.frame[(view.frame["metric"] == "replace") & (view.frame["behaviour"] == view.behaviour)]
    arms = [arm for arm in selection_of.REPLACE_ARMS if arm in set(rows["arm"])]
    if not arms:
        return
    asked: dict = dict(view.chosen)
    preferred = next((arm for arm in ("chain:matched", "chain:random", "single:matched") if arm in arms), arms[0])
    with st.container(horizontal=True):
        asked["arm"] = link.choose("Replaced", arms, "replaced", default=preferred, show=looks.arm_words, width=240)
        if asked["arm"].startswith("single"):
            hooks = selection_of.hooks(rows, "replace", asked["arm"])
            default = causal.default_site(rows, view.behaviour)
            asked["hook"] = link.choose("At", hooks, "replaced-at", default=default, show=selection_of.site_label,
                                        width=200)  # fmt: skip
    state.chart(
        view,
        "frontier",
        "Lower is better and further left is simpler: a line is one vocabulary, kept while everything else is "
        "resampled. The gap between solid and dashed is what does not hold in unseen situations; the gap to the thin "
        "line is what is readable but not used, where both are of the same site.",
        **asked,
    )


def _one_site(view: state.View, hook: str) -> None:
    """Each direction set of a site, kept, erased and exchanged."""
    table = tables.causal(view.frame, **view.chosen, hook=hook)
    first = table.iloc[0]
    nothing = "" if pd.isna(first["nothing"]) else f" Nothing kept (k = 0) leaves {text.number(first['nothing'])}."
    st.text(f"{first['n']:,} test rows of {first['groups']:,} groups.{nothing}")
    helps = {"directions": st.column_config.TextColumn(pinned=True)}
    helps |= {head: st.column_config.TextColumn(help=why) for head, why in HEADS.values()}
    st.dataframe(in_words(table), hide_index=True, width="stretch", height="content", column_config=helps)
    st.caption(
        "read: what a reader of the directions leaves unexplained, of the label where one is named. kept: what the "
        "model leaves that keeps them alone. erased: what is still done without them. exchanged: does the answer "
        "follow a donor's? random: the same of random directions of equal k."
    )
    state.numbers(table, f"{view.run.name}-causal")


def _steered(view: state.View, hook: str) -> None:
    st.subheader("Steered there")
    state.chart(
        view,
        "steering",
        "A direction is added at the edited tokens, in standard deviations of its readout. Its outcome should rise "
        "with the dose, further than under random directions of equal length (grey), while few texts move the "
        "wrong way and texts of something else stay as they are.",
        **view.chosen,
        hook=hook,
    )
