"""Files: a table as CSV, Parquet or LaTeX."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportCallIssue=false

from pathlib import Path

import numpy as np
import pandas as pd

from probekit.errors import BadInput, printable
from probekit.results.text import number, to_csv, told_columns, value_text

ENDINGS = (".csv", ".parquet", ".tex")
_LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
          "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
          ">": r"\textgreater{}"}  # fmt: skip


def write_table(frame: pd.DataFrame, path: Path, caption: str = "") -> None:
    """Write a table as its file's ending says: all columns as CSV or Parquet, what a paper prints of it as LaTeX.

    Raises BadInput for another ending.
    """
    ending = path.suffix.lower()
    if ending == ".csv":
        path.write_text(to_csv(frame), encoding="utf-8", newline="")
    elif ending == ".parquet":
        frame.to_parquet(path, index=False)
    elif ending == ".tex":
        path.write_text(to_latex(frame, caption), encoding="utf-8")
    else:
        raise BadInput(f"a table is written as {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}; found '{path.name}'.")


def to_latex(frame: pd.DataFrame, caption: str = "") -> str:
    """A table for `booktabs`: what tells its rows apart, the value with its interval, n; other tables column by column.

    Every name is escaped, so that it neither is a command nor breaks the table.
    """
    if {"value", "low", "high", "na_reason"} <= set(frame.columns):
        names = told_columns(frame)
        head = [name.replace("_", " ") for name in names] + ["unexplained [95 %]", "n"]
        rows = [[*(_cell(row[name]) for name in names), value_text(row), _cell(row.get("n"))]
                for row in frame.to_dict("records")]  # fmt: skip
    else:
        head = [str(name).replace("_", " ") for name in frame.columns]
        rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    lines = [" & ".join(map(escaped, row)) + r" \\" for row in rows]
    return "\n".join([
        r"\begin{table}", r"\centering", *([rf"\caption{{{escaped(caption)}}}"] if caption else []),
        rf"\begin{{tabular}}{{{'l' * len(head)}}}", r"\toprule", " & ".join(map(escaped, head)) + r" \\", r"\midrule",
        *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is; without line breaks and control characters."""
    return "".join(_LATEX.get(letter, letter) for letter in printable(" ".join(str(text).split())))


def _cell(value: object) -> str:
    """A cell in words: numbers that are no counts in two digits."""
    if isinstance(value, str):
        return value
    if np.ndim(value):
        return ", ".join(map(_cell, value))
    if value is None or value is pd.NA or value != value:  # what is not a number equals nothing
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:g}" if value == int(value) else number(value)
