"""A run's single rows made by hand: two sites, of which selection rows prefer the first one."""

from typing import Any

import numpy as np
import pandas as pd

from probekit.records import Record
from probekit.storage.runwriter import RunWriter

SITES = [f"blocks.{i}.hook_resid_post" for i in range(2)]
LONG = " ".join(f"word{i}" for i in range(200))


def record(hook, level="linear", metric="read", k=None, behaviour="answer", **more) -> Record:
    told: dict[str, Any] = {"fit_domain": "home", "test_domain": "home", "source": "behaviour", "value": 0.5}
    at = {"behaviour": behaviour, "metric": metric, "hook": hook, "level": level, "k": k, "n": 40, "groups": 20}
    return Record(**(told | at | more))


def pair(hook, level, k, rank, first, second, **more):
    sides = {f"{name}_{side}": value for side, text, outcome in (("a", first, "yes"), ("b", second, "no"))
             for name, value in (("example", rank), ("position", 3), ("group", f"g{side}"), ("domain", "home"),
                                 ("text", text), ("outcome", outcome), ("probability", 0.98),
                                 ("law", [0.98, 0.02]))}  # fmt: skip
    figures = {"rank": rank, "distance": 0.1, "percentile": 0.4, "divergence_bits": 0.9, "ratio": 2.25}
    return {"hook": hook, "behaviour": "answer", "rule": "all", "level": level, "source": "behaviour", "k": k,
            **figures, **sides, "outcomes": ["yes", "no"]} | more  # fmt: skip


def rows_by_hand() -> tuple[list[Record], dict[str, pd.DataFrame], pd.DataFrame]:
    """Records, the tables of single rows, and the bits of each."""
    records = [record(hook) for hook in SITES] + [record(SITES[0], metric="selected")]
    records += [record(hook, "directions", k=k) for hook in SITES for k in (1, 2, 8)]
    records += [record(SITES[0], behaviour="other")]
    alike = [{"hook": hook, "behaviour": "answer", "rule": "all", "level": level, "source": "behaviour", "k": k,
              "n_pairs": 2, "n_alike": 900, "alike_bits": 0.3, "random_bits": 0.4}
             for hook in SITES for level, k in (("linear", None), ("directions", 1), ("directions", 2))]  # fmt: skip
    pairs = [pair(SITES[0], "linear", None, 1, "the capital of france is", "the capital of spain is"),
             pair(SITES[0], "linear", None, 2, LONG, LONG.replace("word100 ", "\x1b[31mred ")),
             pair(SITES[0], "directions", 1, 1, "[red] car", "one two three")]  # fmt: skip
    where = {"hook": SITES[0], "behaviour": "answer", "rule": "all"}
    rates = [where | {"domain": name, "consistent_with": "pair", "rate": rate, "low": 0.0, "high": 0.1, "n": 40,
                      "groups": 20, "confident": 0.2, "consistent": 0.9, "wrong_of_confident": 0.3}
             for name, rate in (("home", 0.02), ("away", 0.0))]  # fmt: skip
    wrong = [where | {"example": 7, "position": 3, "group": "g", "domain": "home", "consistent_with": "pair",
                      "said": "yes", "confidence": 0.97,
                      "said_probability": 0.2, "probability": 0.8, "outcome": "no", "text": LONG}]  # fmt: skip
    bits = [{"hook": hook, "behaviour": "answer", "rule": "all", "level": "linear", "source": "behaviour", "k": None,
             "row": i, "bits": 0.1 * i, "floor_bits": 1.0, "ceiling_bits": 0.1, "example": i, "position": 3,
             "group": "g", "domain": "home", "outcome": "yes", "probability": 0.9}
            for hook in SITES for i in range(40)]  # fmt: skip
    texts = [{"example": i, "position": 3, "text": f"text {i}"} for i in range(39)]
    kept = {"alike": alike, "counterexamples": pairs, "plausible_rates": rates, "plausible": wrong, "texts": texts}
    frames = {name: pd.DataFrame(rows) for name, rows in kept.items()}
    for name in ("alike", "counterexamples"):
        frames[name] = frames[name].astype({"k": "Int64"})
    tested = ["example", "position", "group", "domain", "outcome", "probability", "floor_bits", "ceiling_bits"]
    read = pd.DataFrame(bits).astype({"k": "Int64"})
    rows = read[read["hook"] == SITES[0]]
    frames["tested_rows"] = pd.DataFrame({name: rows[name] for name in ["behaviour", "rule", "row", *tested]})
    return records, frames, read


def told_by_hand(frames: dict[str, pd.DataFrame], read: pd.DataFrame) -> None:
    """Also what is said of each row, a board at each, and two tokens of each text: in place."""
    frames["outcomes"] = pd.DataFrame({"behaviour": "answer", "rule": "all", "at": [0, 1], "outcome": ["yes", "a2"]})
    frames["tested_rows"] = frames["tested_rows"].assign(
        example=lambda t: t["row"] // 2, position=lambda t: 3 + t["row"] % 2, outcome="a1"
    )
    words = [f"text {i // 2} [a]" + " ends" * (i % 2) for i in range(40)]
    frames["texts"] = frames["tested_rows"][["example", "position"]].assign(text=words)
    squares = [f"{x}{y}" for y in (1, 2) for x in "ab"]
    at = frames["tested_rows"][["behaviour", "rule", "example", "position"]]
    classes = ["mine", "yours", "empty"]
    boards = [{"is": [0, 1, 2, 2], "decoded": [0, 0, 2, 2], "classes": classes, "targets": squares}] * len(at)
    frames["features"] = pd.concat([at, pd.DataFrame(boards)], axis=1).assign(hook=SITES[0], feature="mine_yours")


def write_rows_by_hand(root, name, told=False):
    """The same as a run folder; told: with what readers say and boards."""
    records, frames, read = rows_by_hand()
    if told:
        told_by_hand(frames, read)
    writer = RunWriter.open(root, name, {"name": name}, 1)
    for i, (_, site) in enumerate(read.groupby("hook")):
        one = site.iloc[0][["hook", "behaviour", "rule", "level", "source"]].to_dict()
        n = len(site)
        said = {"said": np.ones(n, "int16"), "confidence": np.linspace(0.5, 1, n, dtype="float32"),
                "agreed": np.full(n, 0.25, "float32")} if told else {}  # fmt: skip
        writer.write_rows(f"cell-{i}", [{**one, "k": None, "row": site["row"].to_numpy("int32"),
                                         "bits": site["bits"].to_numpy("float32"), **said}])  # fmt: skip
    for table, frame in frames.items():
        writer.write_table(table, frame)
    writer.write_cell("cell", records, [], seconds=1.0)
    writer.finish({})
