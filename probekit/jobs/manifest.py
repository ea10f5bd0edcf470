"""What a finished run says of itself: spec, inputs, versions, timings, audit."""

from collections.abc import Collection, Mapping
from importlib import metadata
from itertools import product
from typing import Any

import numpy as np

from probekit.activations.activations import Activations
from probekit.errors import FitError
from probekit.jobs.cells import CELL_VERSION, said_place
from probekit.jobs.job import Job
from probekit.measurement.cell import Measurement
from probekit.metrics.classes import entropy_bits
from probekit.task import Behaviour, Observations


def manifest_of(
    job: Job, activations: Activations, measurements: Mapping[str, Measurement], timings: dict[str, float],
    selected: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    floors, measurement = {}, next(iter(measurements.values()))
    read = [(cell.what, cell.place) for cell in job.cells() if cell.kind == "read"]
    for (behaviour, place), domain in product(dict.fromkeys(read), measurement.domains):
        # A resumed run may not have needed this setting again; its floors belong to the run all the same.
        at = f"{behaviour} {domain} {said_place(place)}".strip()
        if behaviour in measurements[place].constant:
            floors[at] = {"constant": measurements[place].constant[behaviour]}
            continue
        try:
            setting = measurements[place].setting(behaviour, domain)
        except FitError as error:  # every cell of it has failed, and says so
            floors[at] = {"error": str(error)}
            continue
        for name, (floor, _) in setting.floors.items():
            floors[f"{at} {name}"] = {
                "family": floor.family, "blocks": list(floor.blocks), "parameters": floor.parameters,
                "bits": float(setting.floor_bits(name).mean()), "ceiling_bits": float(setting.test_ceiling.mean()),
            }  # fmt: skip
    labels = {b.name for b in job.task.behaviours if b.kind == "label"}
    return {
        "inputs": job.inputs,
        "model": {
            "name": job.model.name,
            "revision": job.model.revision,
            "fingerprint": job.model.fingerprint,
            "n_layers": job.model.n_layers,
        },
        "task": {"name": job.task.name, "fingerprint": job.task.fingerprint, "n_rows": len(activations.observations)},
        "behaviours": {
            b.name: answers_of(b, activations.observations, labels - {b.name})
            for b in activations.observations.behaviours.values()
        },
        "outcomes": _outcomes(job, measurements),
        "hypotheses": {h.name: {"features": list(h.features), "source_hash": h.source_hash} for h in job.hypotheses},
        "directions": {
            one.name: {"digest": one.digest, "hooks": {hook: d.shape[1] for hook, d in one.directions.items()}}
            for one in job.given
        },
        "floors": floors,
        "selected": selected,
        "cell_version": CELL_VERSION,
        "seeds": {"probe": measurement.seeds[0], "data": measurement.seeds[1], "model": measurement.seeds[2]},
        "packages": versions(),
        "audit": activations.audit | _asked_of_text(job),
        "timings": {name: round(seconds, 3) for name, seconds in timings.items()},
    }


def _outcomes(job: Job, measurements: Mapping[str, Measurement]) -> dict[str, list[str] | None]:
    """Names of the outcomes that readers tell, after rare ones became one; None of a number."""
    out = {}
    for cell in job.cells():
        measurement = measurements[cell.place]
        if cell.kind == "read" and cell.what not in measurement.constant:
            known = measurement.pooling(cell.what).behaviour
            out[f"{cell.what} {said_place(cell.place)}".strip()] = None if known.is_value else list(known.outcomes)
    return out


def answers_of(behaviour: Behaviour, observations: Observations, labels: Collection[str]) -> dict[str, Any]:
    """What the outcomes are worth before anything is read from the network.

    covered_mass: what the named outcomes have of all there are; likeliest: of a choice, the token that most rows would
    go on with; entropy_bits: mean over rows; agrees: share of rows where the likeliest outcome is a label, for each of
    `labels` that has the same names but for case and blanks. Of a number its mean and standard deviation.
    """
    if behaviour.is_value:
        mean, deviation = float(behaviour.law.mean()), float(behaviour.law.std())
        return {
            "mean": mean,
            "deviation": deviation,
            "covered_mass": behaviour.covered,
            "likeliest": behaviour.likeliest,
        }
    law, names = behaviour.law, np.array([name.strip().casefold() for name in behaviour.outcomes])
    agrees = {}
    for label in sorted(labels):
        other = observations.behaviours[label]
        theirs = np.array([name.strip().casefold() for name in other.outcomes])
        if len(set(theirs)) == len(theirs) and set(theirs) <= set(names):
            agrees[label] = float((names[law.argmax(1)] == theirs[other.law.argmax(1)]).mean())
    return {
        "n_outcomes": len(names), "covered_mass": behaviour.covered, "likeliest": behaviour.likeliest,
        "entropy_bits": float(entropy_bits(law).mean()), "agrees": agrees,
    }  # fmt: skip


def _asked_of_text(job: Job) -> dict[str, Any]:
    """How the examples were made from text, and what was deleted from them."""
    told = {"task": dict(job.task.audit), "deleted": dict(job.deleted)}
    return {name: value for name, value in told.items() if value}


_PACKAGES = (
    "abstraction-probekit",
    "torch",
    "transformers",
    "transformer-lens",
    "numpy",
    "scipy",
    "pandas",
    "safetensors",
)


def versions() -> dict[str, str]:
    """The versions of what numbers depend on."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
