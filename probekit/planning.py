"""Plan: what a spec would measure, told without loading a model and without torch."""

import fnmatch
import json
from pathlib import Path

from probekit.answers import check_keys
from probekit.errors import BadInput
from probekit.filetask import templates
from probekit.positions import parse_places
from probekit.spec import JobSpec
from probekit.task import ALL

_TESTBEDS = Path(__file__).parent / "testbeds"
_LAYER_KEYS = ("n_layer", "num_hidden_layers", "num_layers")


def plan_rows(spec: JobSpec, base: Path) -> list[dict]:
    """One row per group of cells: kind, behaviour or feature, hook pattern, how many sites, what is measured there.

    position: the rule whose rows are measured, of a file with several, else `all`. Layers come from a local
    config.json; for a hub name they are unknown until the model is loaded (None).
    """
    name = spec.model.name if spec.model else spec.task.testbed
    if name is None:
        raise BadInput("the spec names no model: give [model] name = a local folder, a hub name or a testbed.")
    if spec.task.file and not (base / spec.task.file).is_file():
        raise BadInput(f"the spec's task names the file '{spec.task.file}': there is none in the folder '{base}'.")
    if spec.task.file:
        _check_text(spec)
    n_layers = _n_layers(name, base)
    behaviours, features = _asked(spec)
    rows = []
    for pattern in spec.read.hooks:
        sites = _n_sites(pattern, n_layers)
        rows += [
            {"kind": "feature", "what": feature, "hooks": pattern, "sites": sites, "levels": "linear, nonlinear"}
            for feature in features
        ]
        rows += [
            {"kind": "read", "what": behaviour, "hooks": pattern, "sites": sites, "levels": ", ".join(spec.read.levels)}
            for behaviour in behaviours
        ]
        rows += [
            {"kind": f"without {span}", "what": behaviour, "hooks": pattern, "sites": sites, "levels": "as fitted"}
            for span in spec.read.delete
            for behaviour in behaviours
        ]
        if spec.transfer and (spec.task.domain or spec.task.testbed):
            rows += [
                {"kind": "transfer", "what": behaviour, "hooks": pattern, "sites": sites,
                 "levels": ", ".join(spec.transfer.levels)}
                for behaviour in behaviours
            ]  # fmt: skip
    if spec.replace:
        external = {b.name for b in spec.task.behaviours if b.kind in ("label", "generation")}
        asked = spec.replace.behaviours or tuple(name for name in behaviours if name not in external)
        read = [pattern for pattern in spec.read.hooks if pattern.endswith("hook_resid_post")] or spec.read.hooks
        for pattern in spec.replace.hooks or read:
            rows += [
                {
                    "kind": "replace", "what": behaviour, "hooks": pattern, "sites": _n_sites(pattern, n_layers),
                    "levels": ", ".join(spec.replace.levels),
                }
                for behaviour in asked
            ]  # fmt: skip
    places = text_of(spec).get("positions", [])
    return [row | {"position": place} for place in (places if len(places) > 1 else [ALL]) for row in rows]


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
    for entry in spec.task.behaviours:
        check_keys(entry)


def _asked(spec: JobSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of behaviours and features, in a file's spec or a testbed."""
    if not spec.task.testbed:
        return tuple(b.name for b in spec.task.behaviours), tuple(f.name for f in spec.task.features)
    from probekit.testbeds import NAMES, check_name

    check_name(spec.task.testbed)
    known = {name: (("next_move_law", "edge_mass"), ("mine_yours", "black_white")) for name in NAMES}
    behaviours, features = known[spec.task.testbed]
    return behaviours, features if spec.read.features is None else spec.read.features


def _n_layers(name: str, base: Path) -> int | None:
    places = [base / name, *(config.parent for config in _TESTBEDS.glob(f"*/{name}/config.json"))]
    for place in places:
        if (place / "config.json").is_file():
            config = json.loads((place / "config.json").read_text())
            return next((config[key] for key in _LAYER_KEYS if key in config), None)
    return None


def _n_sites(pattern: str, n_layers: int | None) -> int | None:
    if "*" not in pattern:
        return 1
    if n_layers is None:
        return None
    rest = pattern.split(".", 2)[-1]
    return len(fnmatch.filter([f"blocks.{i}.{rest}" for i in range(n_layers)], pattern))
