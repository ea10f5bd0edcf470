"""Plan: what a spec would measure, told without loading a model and without torch.

What can be known so cheaply is checked: that the data file has the columns asked for, that a local model is one.
"""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probekit.errors import BadInput
from probekit.hookpoint import after_blocks, check_pattern, n_matches
from probekit.inputs.columns import check_columns, read_curve
from probekit.inputs.filetask import asked_columns, check_bos
from probekit.inputs.folders import adapter_base, adapter_folder, beside, is_gguf, model_folder, n_layers_of, width_of
from probekit.inputs.gguf import config_of_head, read_head
from probekit.inputs.given import Brought, read_given
from probekit.inputs.positions import parse_places
from probekit.inputs.prompts import templates
from probekit.levels import check_stated, rule_of
from probekit.metrics.causal.training import TrainingCurve
from probekit.records import SAMPLED
from probekit.spec import JobSpec
from probekit.task import ALL

if TYPE_CHECKING:
    from probekit.jobs.forecast import Forecast

_STREAM = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")  # as wide as the model, whichever it is


def plan_rows(spec: JobSpec, base: Path) -> list[dict]:
    """One row per group of cells: kind, behaviour or feature, hook pattern, how many sites, what is measured there.

    position: the rule whose rows are measured, of a file with several, else `all`. Layers come from a local
    config.json; for a hub name they are unknown until the model is loaded (None). Raises BadInput for a job that cannot
    run as far as the names of its file's columns and its model's folder can tell.
    """
    name = spec.model.name if spec.model else spec.task.testbed
    if name is None:
        raise BadInput("the spec names no model: give [model] name = a local folder, a hub name or a testbed.")
    kinds, features = _asked(spec)
    if not spec.task.testbed:
        columns = asked_columns(spec.task)
        check_stated(spec.hypotheses, kinds, [feature.name for feature in spec.task.features])
        for stated in spec.hypotheses:
            rule_of(stated.name, stated.rule, base)
        check_bos(spec.task, spec.model.bos if spec.model else "as_is")
        _check_text(spec)
        check_columns(base / str(spec.task.file), columns)
    config = config_of(name, base)[0]
    if spec.model and spec.model.adapter:
        adapter_folder(beside(spec.model.adapter, base))
    n_layers = n_layers_of(config)
    for pattern in (*spec.read.hooks, *(h for table in (spec.replace, spec.compose) if table for h in table.hooks)):
        check_pattern(pattern, n_layers, name)
    brought = _check_given(spec, base, name, config)
    rows = []
    of_features = "linear, nonlinear" if "nonlinear" in spec.read.levels else "linear"
    for pattern in spec.read.hooks:
        sites = _n_sites(pattern, n_layers)
        rows += [
            {"kind": "feature", "what": feature, "hooks": pattern, "sites": sites, "levels": of_features}
            for feature in features
        ]
        rows += [
            {
                "kind": "read",
                "what": behaviour,
                "hooks": pattern,
                "sites": sites,
                "levels": ", ".join([*spec.read.levels, *brought]),
            }
            for behaviour in kinds
        ]
        rows += [
            {"kind": f"without {span}", "what": behaviour, "hooks": pattern, "sites": sites, "levels": "as fitted"}
            for span in spec.read.delete
            for behaviour in kinds
        ]
        if spec.transfer and (spec.task.domain or spec.task.testbed):
            rows += [
                {"kind": "transfer", "what": behaviour, "hooks": pattern, "sites": sites,
                 "levels": ", ".join(spec.transfer.levels)}
                for behaviour in kinds
            ]  # fmt: skip
    rows += _replace_rows(spec, kinds, brought, n_layers, base)
    rows += _compose_rows(spec, kinds, features, n_layers)
    places = text_of(spec).get("positions", [])
    return [row | {"position": place} for place in (places if len(places) > 1 else [ALL]) for row in rows]


def _replace_rows(
    spec: JobSpec, kinds: Mapping[str, str], brought: Sequence[str], n_layers: int | None, base: Path
) -> list[dict]:
    if spec.replace is None:
        return []
    spec.replace.labels_of(kinds, "")
    for file in spec.replace.curves.values():
        curve_of(base / file)
    found = [level for level in spec.replace.levels if level in spec.read.levels]  # where directions come from
    kept = ", ".join([*found, *brought, "principal components", "random directions"])
    return [
        {"kind": kind, "what": behaviour, "hooks": pattern, "sites": _n_sites(pattern, n_layers), "levels": kept}
        for kind, behaviours in spec.edited_of(kinds).items()
        for pattern in spec.replace.hooks or after_blocks(spec.read.hooks)
        for behaviour in behaviours
    ]


def curve_of(path: Path) -> TrainingCurve:
    """Losses of a model's checkpoints, in nats in the file and in bits here. Raises BadInput."""
    read = {name: np.array(values) for name, values in read_curve(path).items()}
    try:
        return TrainingCurve.of(read["compute"], read["loss"] / np.log(2))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None


def _compose_rows(spec: JobSpec, kinds: Mapping[str, str], features: Sequence[str], n_layers: int | None) -> list[dict]:
    if spec.compose is None:
        return []
    spec.compose.check_parts(features)
    parts = ", ".join(spec.compose.parts) or f"{spec.compose.k} principal components"
    return [
        {"kind": "compose", "what": behaviour, "hooks": pattern, "sites": _n_sites(pattern, n_layers), "levels": parts}
        for pattern in spec.compose.hooks or after_blocks(spec.read.hooks)
        for behaviour in spec.compose.behaviours_of(kinds)
    ]


def forecast_of(spec: JobSpec, base: Path) -> "Forecast | None":
    """What the file holds and what its job costs and cannot measure; None for a testbed."""
    if spec.task.testbed or spec.model is None:
        return None
    from probekit.jobs.forecast import forecast

    return forecast(spec, base, *config_of(spec.model.name, base))


def text_of(spec: JobSpec) -> dict:
    """What of a file is read and where, for people: source, fields, positions; empty for a testbed."""
    if not spec.task.file:
        return {}
    fields = dict.fromkeys(name for template in templates(spec.task) for name in template.fields)
    where = [place.text for place in parse_places(spec.task.position)]
    return {"file": spec.task.file, "source": spec.task.source, "fields": list(fields), "positions": where}


def _check_text(spec: JobSpec) -> None:
    """What can be known of a text task without reading it; every mistake is one BadInput sentence."""
    told = text_of(spec)
    marks = {f"field:{name}" for name in told["fields"]} | {f"span:{name}" for name in spec.task.spans}
    marks |= {f"role:{turn.role}" for turn in spec.task.chat or ()}
    known = ", ".join(sorted(marks)) or "none"
    asked = [(place.name, "position") for place in parse_places(spec.task.position) if place.kind == "mark"]
    asked += [(span, "read.delete") for span in spec.read.delete]
    for name, where in asked:
        open_ended = spec.task.messages is not None and (name.startswith("role:") or ":" not in name)
        if name not in marks and not open_ended and [m.partition(":")[2] for m in marks].count(name) != 1:
            raise BadInput(f"{where} names '{name}'; the spans that the task will have are {known}.")


def _asked(spec: JobSpec) -> tuple[dict[str, str], tuple[str, ...]]:
    """Kinds of the behaviours by name, and names of the features that are read, in a file's spec or a testbed."""
    pool = spec.task.sampled
    drawn = {} if pool is None else {f"{SAMPLED}* ({pool.n})": "logit_diff"}
    if not spec.task.testbed:
        kinds = {b.name: "logprob" if b.whole else b.kind for b in spec.task.behaviours}  # neither is one pass
        return kinds | drawn, spec.read.features_of([f.name for f in spec.task.features])
    from probekit.testbeds import described

    kinds, features = described(spec.task.testbed)
    return kinds | drawn, spec.read.features_of(features)


def config_of(name: str, base: Path) -> tuple[dict, Path | None]:
    """A local model's config.json and folder, nothing for a name of the hub; of a GGUF file what its head says of both.

    Raises BadInput for what is no model.
    """
    folder = model_folder(beside(name, base))
    if folder is None:
        return {}, None
    if is_gguf(folder):
        return config_of_head(read_head(folder)), None
    changed = adapter_base(folder)
    if changed is not None and changed != str(folder):
        return config_of(changed, base)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{name}: config.json cannot be used ({error}).") from None
    if not isinstance(config, dict):
        raise BadInput(f"{name}: config.json cannot be used (it holds no table).")
    text = config.get("text_config")  # where language is one part of the model
    return config | (text if isinstance(text, dict) else {}), folder


def _check_given(spec: JobSpec, base: Path, model: str, config: Mapping[str, Any]) -> list[str]:
    """Sources of a user's own directions, checked as far as files and a local config tell; no function is run."""
    n_layers, out = n_layers_of(config), []
    width = width_of(config)
    for entry in spec.directions:
        found = read_given(entry, base, run=False)
        out.append(f"given:{entry.name}")
        if found is None:
            continue
        for hook in found.directions:
            check_pattern(hook, n_layers, model)
            if width is not None and hook.rpartition(".")[2] in _STREAM:
                found.check(hook, width)
        _check_read(found, spec.read.hooks)
    return out


def _check_read(given: Brought, patterns: Sequence[str]) -> None:
    here = [hook for hook in given.directions if any(fnmatchcase(hook, p) or fnmatchcase(p, hook) for p in patterns)]
    given.among(here or patterns)


def _n_sites(pattern: str, n_layers: int | None) -> int | None:
    return n_matches(pattern, n_layers or 0) if n_layers is not None or "*" not in pattern else None
