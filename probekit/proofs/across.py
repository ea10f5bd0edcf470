"""Plants of two networks, measured: what carries over from the first to the second, of the behaviour and of a label."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from probekit.jobs.across import transfer_across
from probekit.records import Record
from probekit.testbeds.ground_truth import SEEN, Planted, Truth, draw
from probekit.testbeds.ground_truth.paired import INTERMEDIATE, OTHER, SECOND

ANCHORED = 4  # one row in so many is an anchor


def paired(name: str, truths: Sequence[Truth], n: int, d: int, seed: int) -> list[Record]:
    """Records of a case of two networks: every level that a truth names, on what the seed draws."""
    planted = draw(name, n, d, seed, varied=True)
    out = []
    for source in dict.fromkeys(OTHER if truth.source == OTHER else "" for truth in truths):
        told = [truth for truth in truths if (truth.source == OTHER) == (source == OTHER)]
        out += [replace(one, source=OTHER) if source == OTHER else one for one in _records(planted, told, seed)]
    return [replace(one, fit_domain=SEEN, test_domain=SEEN) for one in out]


def _records(planted: Planted, truths: Sequence[Truth], seed: int) -> list[Record]:
    of_label = truths[0].source == OTHER
    frame = transfer_across(
        {"first": planted.activations, "second": planted.extra[SECOND]},
        behaviour=planted.extra[INTERMEDIATE] if of_label else planted.law,
        anchors=np.arange(len(planted.law)) % ANCHORED == 0,
        levels=tuple(dict.fromkeys(truth.level for truth in truths)),
        ks=(1,),
        alignments=tuple(dict.fromkeys(arm.removeprefix("models:") for truth in truths if
                         (arm := truth.arm) not in ("models:refit", "models:function"))),
        of=[("first", "second")],
        seed=seed,
        n_bootstrap=1_000,
    )  # fmt: skip
    kept = [record_of(row) for row in frame.to_dict("records")]
    # Of a direction that was fitted to a label, the one that a logistic reader finds.
    return [one for one in kept if not of_label or one.level != "direction" or one.source == "logistic"]


def record_of(row: dict[str, Any]) -> Record:
    """The record that a row of a frame was made of: a frame has no integer that is missing."""
    names = {f.name for f in fields(Record)}
    plain: dict[str, Any] = {
        key: None if isinstance(value, float) and np.isnan(value) else value
        for key, value in row.items()
        if key in names
    }
    for name in ("k", "parameters", "layer", "n_fit", "d_read"):
        plain[name] = None if plain[name] is None else int(plain[name])
    return Record(**plain)
