"""The link: what decides a view is in the URL, by id, so that it can be sent, opened elsewhere and gone back from.

The URL holds the run, the seal of its manifest, and every choice that differs from its default; a default follows from
the run alone. It is written once for each view, so that one view is one step of Back. Widgets are not bound to it by
streamlit, which would keep display texts there and leave no step behind.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

_CHOICE = "choice:"  # of a widget's key in the session
_KEPT, _WRITTEN, _NOTES, _LEAVING = "_kept", "_written", "_notes", "_leaving"


def begin() -> None:
    """Read the URL, where it is not what this page wrote: a link that was opened, or a step back."""
    told = dict(st.query_params)
    if told != st.session_state.get(_WRITTEN):
        for key in [key for key in st.session_state if str(key).startswith(_CHOICE)]:
            del st.session_state[key]
        st.session_state[_KEPT] = told
    st.session_state[_NOTES] = []
    st.session_state[_LEAVING] = False


def end() -> None:
    """Write what decides this view into the URL, if that is not what it says already."""
    if st.session_state[_LEAVING]:
        return
    if dict(st.query_params) != kept():
        st.query_params.from_dict(kept())
    st.session_state[_WRITTEN] = dict(kept())


def kept() -> dict[str, str]:
    """Every choice that was made, of all pages: the parameters of a link from here."""
    return st.session_state.setdefault(_KEPT, {})


def keep(key: str, value: str | None) -> None:
    """Put a choice into the link, or take it out with None. What is drawn later in this run sees it."""
    st.session_state.pop(_CHOICE + key, None)
    if value is None:
        kept().pop(key, None)
    else:
        kept()[key] = value


def go(page: Any, **choices: str) -> None:
    """Leave for another page, with these choices changed."""
    st.session_state[_LEAVING] = True
    st.switch_page(page, query_params={**kept(), **choices})


def note(said: str) -> None:
    """Something that a link asked for and that is not here."""
    st.session_state[_NOTES].append(said)


def notes() -> list[str]:
    """What could not be shown as a link asked."""
    return st.session_state[_NOTES]


def choose(
    label: str,
    options: Sequence[Any],
    key: str,
    *,
    default: Any = None,
    show: Callable[[Any], str] = str,
    pills: bool = False,
    slider: bool = False,
    always: bool = False,
    **how: Any,
) -> Any:
    """One of the options, whose id, `str(option)`, is kept in the link under `key` where it is not the default.

    An id that is none of theirs is told and dropped. default: the first one when left out. pills: all side by
    side; slider: along a line. always: in the link in any case, where the default does not follow from the run alone.
    """
    ids = {str(option): option for option in options}
    first = str(default) if str(default) in ids else next(iter(ids), "")
    chosen = st.session_state.get(_CHOICE + key, kept().get(key, first))
    if chosen not in ids:
        if key in kept() and _CHOICE + key not in st.session_state:
            note(f"The link asks for {label.lower()} '{kept()[key]}', which is not here.")
        chosen = first
    if not ids:
        return None
    st.session_state[_CHOICE + key] = chosen
    widget = {"key": _CHOICE + key, "format_func": lambda one: show(ids[one]), **how}
    if slider and len(ids) > 1:
        picked = st.select_slider(label, list(ids), **widget)
    elif pills:
        picked = st.segmented_control(label, list(ids), required=True, **widget)
    else:
        picked = st.selectbox(label, list(ids), **widget)
    picked = picked if picked in ids else chosen
    _remember(key, None if picked == first and not always else picked)
    return ids[picked]


def choose_several(
    label: str, options: Sequence[str], key: str, *, default: Sequence[str], show: Callable[[str], str] = str
) -> list[str]:
    """Some of the options, kept in the link as `a,b`; names of levels hold no comma."""
    told = [one for one in kept().get(key, "").split(",") if one in options]
    if _CHOICE + key in st.session_state:
        st.session_state[_CHOICE + key] = [one for one in st.session_state[_CHOICE + key] if one in options]
    else:
        st.session_state[_CHOICE + key] = told or list(default)
    picked = st.multiselect(label, list(options), key=_CHOICE + key, format_func=show)
    _remember(key, None if picked == list(default) else ",".join(picked))
    return picked


def search(label: str, key: str, **how: Any) -> str:
    """A text to look for, kept in the link."""
    st.session_state.setdefault(_CHOICE + key, kept().get(key, ""))
    typed = st.text_input(label, key=_CHOICE + key, **how) or ""
    _remember(key, typed or None)
    return typed


def chosen(choices: Mapping[str, str]) -> None:
    """Callback of a click: these choices, from the next run on."""
    for key, value in choices.items():
        keep(key, value)


def _remember(key: str, value: str | None) -> None:
    if value is None:
        kept().pop(key, None)
    else:
        kept()[key] = value
