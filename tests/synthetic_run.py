"""A run folder with made-up numbers that behave like real ones, for tests of everything that reads."""

# ruff: noqa: E501

import atexit
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from probekit.records import Losses, Record
from probekit.storage.runwriter import RunWriter

KS = (1, 2, 4, 8, 16, 32)
DOMAINS = ("random", "championship", "endgame")
BEHAVIOURS = ("next_move", "pass_or_play")
TRANSFER_ARMS = ("raw", "refit", "platt50")
SPEC = {
    "name": "synthetic",
    "model": {"name": "othello", "revision": "step-2000", "dtype": "float32", "twin": True},
    "task": {"testbed": "othello", "n_examples": 2000},
    "read": {"levels": ["prior", "baseline", "neurons", "direction", "directions", "linear", "nonlinear"], "ks": list(KS)},
    "replace": {"ks": list(KS), "donors": 16},
    "transfer": {"levels": ["linear"]},
    "n_bootstrap": 2000,
}  # fmt: skip
PROVENANCE = {
    "versions": {"probekit": "0.1.0", "torch": "2.13.0", "transformer_lens": "4.3.0", "python": "3.11.2"},
    "git": "077c985",
    "model": {"weights": "b3:9f2c51d07a", "config": "b3:41aa", "mode": "plain"},
    "task": {"examples": "b3:5512cc", "groups": 400},
    "audit": {
        "backend": "hf", "backend_parity": 5.7e-7, "backend_parity_limit": 1e-4, "backend_reason": "", "attention": "sdpa",
        "n_examples": 2, "n_hooks_fired_once": 30, "n_not_finite": 0, "invariance": 2.4e-7, "invariance_limit": 1e-3,
        "hf_parity": 0.0, "not_writable": {"blocks.0.hook_resid_mid": "one branch only"}, "dtypes": ["float32"],
        "n_sequences": 2000, "n_at_context_limit": 3, "n_without_bos": 0, "n_with_two_bos": None,
        "<img src=http://example.org/x onerror=alert(1)> & =cmd|' /C calc'!A0": "text",
    },
    "timings": {"load": 3.2, "capture": 41.0, "read": 188.4, "replace": 95.1, "transfer": 12.8},
}  # fmt: skip


def records(n_layers: int = 6, *, behaviours=BEHAVIOURS, domains=DOMAINS, model: str = "othello") -> list[Record]:
    """Every kind of record that a job writes: read with controls, decomposition, replace, transfer, accuracy, crossing."""
    return list(_records(n_layers, behaviours, domains, model))


def _noise(*key: object) -> float:
    """A number in [-1, 1] that depends on the key alone."""
    return np.random.default_rng(zlib.crc32(repr(key).encode())).uniform(-1, 1)


def _records(n_layers: int, behaviours, domains, model: str) -> Iterator[Record]:
    sites = [("blocks.0.hook_resid_pre", 0, 0.0)]
    sites += [(f"blocks.{i}.hook_resid_post", i, (i + 1) / n_layers) for i in range(n_layers)]
    for behaviour in behaviours:
        hard = 1.0 if behaviour == behaviours[0] else 0.8
        floor_bits, ceiling_bits = (2.31, 1.12) if behaviour == behaviours[0] else (0.52, 0.0)

        def make(value, *, spread=0.02, floor="strong", _floor=floor_bits, _ceiling=ceiling_bits, _b=behaviour, **at):
            value += 0.01 * _noise(value, sorted(at.items(), key=str)) * (spread > 0)
            weak = _floor + (0.6 if floor == "weak" else 0.0)
            bits = _ceiling + value * (weak - _ceiling)
            defaults = {"model": model, "task": "othello", "behaviour": _b, "n": 2000, "groups": 400}
            return Record(
                value=value, low=value - spread, high=value + 1.2 * spread, raw=value + 0.01, bits=bits, floor=floor,
                floor_bits=weak, ceiling_bits=_ceiling, p99_bits=bits * 3.1, worst_group=bits * 1.7,
                **(defaults | at),
            )  # fmt: skip

        for domain in domains:
            here = {"fit_domain": domain, "test_domain": domain}
            shift = 0.05 * domains.index(domain)
            for hook, layer, depth in sites:
                at = here | {"hook": hook, "layer": layer}
                best = hard * max(0.0, 1 - 1.05 * depth) + shift * (1 - depth)
                read = at | {"metric": "read"}
                yield make(1.6, level="prior", **read)
                yield make(1.0, level="baseline", spread=0.0, **read)
                for floor in ("strong", "weak"):
                    scale = 1.0 if floor == "strong" else 0.7
                    yield make(scale * best + 0.02, level="linear", source="logistic", floor=floor, **read)
                    yield make(scale * best * 0.85, level="nonlinear", source="mlp", floor=floor, **read)
                yield make(0.5 + 0.5 * best, level="direction", source="mean_difference", k=1, **read)
                yield make(0.55 + 0.45 * best, level="direction", source="logistic", k=1, **read)
                for k in KS:
                    gain = 1 - np.exp(-k / 6)
                    yield make(1 - (1 - best) * gain, level="directions", source="behaviour", k=k, **read)
                    yield make(1 - (1 - best) * gain * 0.7, level="neurons", k=k, **read)
                    yield make(1 - (1 - 0.9 * best) * (1 - np.exp(-k / 4)), level="simple:quadratic", source="joint", k=k,
                               **read)  # fmt: skip
                    yield make(0.99 - 0.004 * k, level="directions", source="random", k=k, control="random_directions",
                               **read)  # fmt: skip
                yield make(0.95 - 0.1 * depth, level="linear", source="logistic", control="random_twin", **read)
                yield make(1.01, level="linear", source="logistic", control="permuted_in_group", **read)
                yield make(0.4 * best, level="linear", source="logistic", control="row_split", **read)
                yield make(0.98, level="linear", source="logistic", control="control_task", **read)
                yield make(1.4, level="linear", source="logistic", control="deleted:field:tag", **read)
                whole = at | {"k": 1, "level": "direction", "source": "mean_difference"}
                yield make(best, metric="extrapolated", level="linear", source="logistic", **at)
                yield Record(metric="auroc", behaviour=behaviour, value=best, low=best - 0.03, high=best + 0.03, n=2000,
                             groups=400, model=model, task="othello", **whole)  # fmt: skip
                na = behaviour == behaviours[-1] and layer == 0
                hypothesis = read | {
                    "behaviour": behaviour,
                    "level": "hypothesis:legal_moves",
                    "source": "decoded",
                    "k": 12,
                }
                if na:
                    yield Record(**hypothesis, na_reason="small_denominator", n=2000, groups=400, floor_bits=0.03,
                                 ceiling_bits=0.0)  # fmt: skip
                else:
                    yield make(0.21 + 0.6 * best, **hypothesis)
                classes = ("direction", "directions", "simple:quadratic", "linear", "nonlinear")
                for arm, weights in (
                    ("linear_first", (0.3, 0.35, 0.1, 0.15, 0.1)),
                    ("simple_first", (0.3, 0.25, 0.3, 0.05, 0.1)),
                ):
                    share = {"metric": "decomposition", "arm": arm} | at
                    for level, weight in zip(classes, weights, strict=True):
                        yield make((1 - 0.85 * best) * weight, level=level, **share)
                    yield make(0.85 * best, level="absent", **share)
            yield make(0.03 + shift, metric="selected", level="linear", source="logistic", hook=sites[-1][0],
                       layer=sites[-1][1], note="chosen on selection rows", **here)  # fmt: skip
            for hook, layer, depth in [*sites[1:], ("", None, 0.5)]:
                chain = hook == ""
                best = 0.12 if chain else hard * max(0.05, 1 - depth)
                for target in domains:
                    if domain != domains[0] and target != domain:
                        continue
                    away = 0.0 if target == domain else 0.12
                    for arm in ("random", "matched"):
                        to = {"metric": "replace", "arm": f"{'chain' if chain else 'single'}:{arm}", "hook": hook,
                              "layer": layer, "fit_domain": domain, "test_domain": target, "unit": "pair", "n": 256}  # fmt: skip
                        for k in KS:
                            gain = 1 - np.exp(-k / (9 if chain else 6))
                            yield make(
                                1 - (1 - best - away) * gain,
                                level="directions",
                                source="behaviour",
                                k=k,
                                spread=0.05,
                                **to,
                            )
                            yield make(
                                1 - (1 - best - away) * gain * 0.8,
                                level="directions",
                                source="pca",
                                k=k,
                                spread=0.05,
                                **to,
                            )
                            yield make(1.02 - (1 - best - away) * gain * 0.5, level="neurons", k=k, spread=0.05, **to)
                            if target == domain:
                                yield make(1.0 - 0.002 * k, level="directions", source="random", k=k, spread=0.05,
                                           control="random_directions", **to)  # fmt: skip
                                yield make(0.97 - 0.05 * gain, level="directions", source="behaviour", k=k, spread=0.04,
                                           control="random_twin", **to)  # fmt: skip
                        yield make(
                            0.30 + away + 0.3 * best,
                            level="hypothesis:legal_moves",
                            source="decoded",
                            k=12,
                            spread=0.05,
                            **to,
                        )
                        yield make(0.26 + away, level="hypothesis:legal_moves", source="true", k=12, spread=0.05, **to)
            if domain == domains[0]:
                yield from _edited(make, [(hook, layer) for hook, layer, _ in sites[1:]], here)
            for target in domains:
                for hook, layer, _ in sites:
                    where = {
                        "metric": "transfer",
                        "hook": hook,
                        "layer": layer,
                        "fit_domain": domain,
                        "test_domain": target,
                    }
                    for arm in TRANSFER_ARMS:
                        if domain == "endgame" and target == "random":
                            yield Record(behaviour=behaviour, level="linear", arm=arm, na_reason="absent_in_test_domain", n=2000,
                                         groups=400, **where)  # fmt: skip
                            continue
                        gap = abs(domains.index(domain) - domains.index(target)) / 3
                        yield make(
                            gap * {"raw": 1.6, "refit": 0.8, "platt50": 0.5}[arm], level="linear", arm=arm, **where
                        )
            yield make(-0.11, metric="crossing", level="hypothesis:legal_moves", source="decoded", hook=sites[-1][0],
                       layer=sites[-1][1], fit_domain=domains[0], test_domain=domain)  # fmt: skip
    linear = {"mine_yours": (0.91, 0.995), "black_white": (0.62, 0.75)}
    for name, (start, end) in linear.items():
        for hook, layer, depth in sites:
            feature = {"behaviour": f"feature:{name}", "metric": "accuracy", "hook": hook, "layer": layer,
                       "fit_domain": domains[0], "test_domain": domains[0], "model": model, "n": 2000, "groups": 400}  # fmt: skip
            flat = start + (end - start) * (1 - np.exp(-5 * depth))
            deep = (0.63 if name == "black_white" else 0.92) + (0.36 if name == "black_white" else 0.077) * (
                1 - np.exp(-4 * depth)
            )
            for level, value in (("linear", flat), ("nonlinear", deep)):
                yield Record(level=level, value=value, low=value - 0.004, high=value + 0.004, **feature)
            yield Record(level="linear", control="random_twin", value=0.70, low=0.69, high=0.71, **feature)


def _edited(make, sites, here) -> Iterator[Record]:
    """Directions added in doses at every site, and a set kept at one site after another."""
    for n, (hook, layer) in enumerate(sites, 1):
        at = here | {"hook": hook, "layer": layer, "level": "directions", "n": 256, "groups": 120}
        for control, gain in (("", 0.8), ("random_directions", 0.05)):
            for dose in (-4.0, -2.0, 2.0, 4.0):
                steered = at | {"metric": "steer", "source": "behaviour", "k": 1, "control": control,
                                "note": "raises <b>x</b>; a dose is 1.5"}  # fmt: skip
                for name, value in (("effect", gain * dose), ("wrong", 0.5 - gain / 2), ("unrelated", 0.01 * dose**2)):
                    yield make(value, arm=f"{name}:{dose:+g}", spread=0.05, **steered)
        kept = at | {"metric": "replace", "arm": "roll_out"}
        for source in ("behaviour", "pca"):
            yield make(0.1 * n + 0.1 * (source == "pca"), source=source, k=4, spread=0.04, **kept)
        for k in (0, 4):
            yield make(1.0 - 0.01 * k, source="random", k=k, control="random_directions", spread=0.04, **kept)


CAUSAL_SOURCES = ("behaviour", "label:truth", "pca", "das", "given:my <i>axis</i>")
CAUSAL_HOOKS = ("blocks.3.hook_resid_post", "blocks.7.hook_resid_post", "blocks.11.hook_resid_post")


def causal_records(hooks=CAUSAL_HOOKS, behaviour: str = "answer", steered: bool = True) -> list[Record]:
    """A run on a chat model: truth is read well and hardly run on, what was learned by interchange is run on."""
    out, here = (
        [],
        {"behaviour": behaviour, "fit_domain": "all", "test_domain": "all", "model": "chat", "task": "truth"},
    )

    def add(value, spread=0.03, **at):
        told = {"value": value, "low": value - spread, "high": value + spread, "bits": 0.4, "floor_bits": 1.0,
                "ceiling_bits": 0.1, "n": 384, "groups": 128}  # fmt: skip
        out.append(Record(**(here | told | at)))

    for i, hook in enumerate(hooks):
        at, gain = {"hook": hook, "layer": i}, (i + 1) / len(hooks)
        for k in (1, 4):
            read = at | {"metric": "read", "level": "directions", "k": k}
            add(0.9 - 0.6 * gain - 0.05 * k, source="behaviour", **read)
            add(0.55 - 0.5 * gain, source="behaviour", **(read | {"behaviour": "truth"}))
            add(0.98, source="random", control="random_directions", **read)
        add(0.5 - 0.45 * gain, metric="read", level="direction", source="lda", k=1, **(at | {"behaviour": "truth"}))
        replaced = at | {"metric": "replace", "level": "directions"}
        for arm, left in (("single:random", 1.0), ("single:matched", 0.8), ("single:mean", 1.1),
                          ("necessity:resample", 0.2), ("necessity:mean", 0.25), ("iia", 0.9)):  # fmt: skip
            for k in (1, 4):
                for source, of in zip(CAUSAL_SOURCES, (0.5, 0.95, 0.8, 0.15, 0.7), strict=True):
                    value = left * (1 - (1 - of) * gain - 0.02 * k)
                    add(value, source=source, k=k, arm=arm, **replaced)
                if arm != "iia":
                    add(left, source="random", k=k, arm=arm, control="random_directions", **replaced)
            if arm.startswith("single"):
                add(1.02, source="random", k=0, arm=arm, control="random_directions", **replaced)
        add(0.93, metric="replace", level="direction", source="label:truth:lda", k=1, arm="single:random", **at)
        add(0.6, metric="replace", level="hypothesis:rules", source="true", k=None, arm="single:matched", **at)
        for source, slope in (("behaviour", 0.9), ("label:truth", 0.1), ("das", 1.6)) if steered else ():
            for control, random in (("", 1.0), ("random_directions", 0.05)):
                for dose in (-4.0, -2.0, -1.0, 1.0, 2.0, 4.0):
                    told = {"metric": "steer", "level": "directions", "source": source, "k": 1, "control": control,
                            "note": "raises True; a dose is 1.7"}  # fmt: skip
                    add(gain * slope * random * dose, spread=0.1, arm=f"effect:{dose:+g}", **at, **told)
                    add(max(0.02, 0.5 - slope * random / 3), arm=f"wrong:{dose:+g}", **at, **told)
                    add(0.02 * dose**2, spread=0.01, arm=f"unrelated:{dose:+g}", **at, **told)
        kept = at | {"metric": "replace", "level": "directions", "arm": "roll_out"}
        for source, value in (("behaviour", 0.3), ("das", 0.1)):
            add(value * (i + 1), source=source, k=4, **kept)
        add(1.0, source="random", k=4, control="random_directions", **kept)
        add(1.02, source="random", k=0, control="random_directions", **kept)
    return out


def write_causal_run(root: Path, run: str = "causal", **given) -> Path:
    """Write the run of `causal_records` under `root`."""
    writer = RunWriter.open(root, run, {"name": run, "model": {"name": "chat"}}, 1)
    writer.write_cell("all", causal_records(**given), [], seconds=1.0)
    writer.finish(PROVENANCE)
    return root / run


@cache
def shared_run(n_layers: int = 6) -> Path:
    """One finished run for all tests that only read; with many layers, a narrow one."""
    root = Path(tempfile.mkdtemp(prefix="probekit-test-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    narrow = {"domains": DOMAINS[:1], "behaviours": BEHAVIOURS[:1]} if n_layers > 12 else {}
    return write_run(root, n_layers=n_layers, **narrow)


def write_run(
    root: Path,
    run: str = "synthetic",
    n_layers: int = 6,
    *,
    finish: bool = True,
    domains=DOMAINS,
    behaviours=BEHAVIOURS,
    spec: dict | None = None,
) -> Path:
    """Write the synthetic run under `root`; `finish=False` leaves it half-written, one cell in four missing."""
    spec = SPEC if spec is None else spec
    made = records(n_layers, domains=domains, behaviours=behaviours)
    sites = sorted({record.hook for record in made})
    writer = RunWriter.open(root, run, spec, len(sites))
    for i, site in enumerate(sites):
        if not finish and i % 4 == 3:
            continue
        mine = [record for record in made if record.hook == site]
        writer.write_cell(
            f"cell{i}", mine, [_losses(record) for record in mine if record.metric == "read"], seconds=2.5 + i
        )
    if finish:
        writer.write_table("counterexamples", pd.DataFrame({"first": ["=HYPERLINK(1)", "a"], "second": ["<b>x</b>", "b"],
                                                            "divergence": [1.2, -0.4]}))  # fmt: skip
        writer.write_table("sites", _sites(made))
        writer.finish(PROVENANCE)
    else:
        writer.interrupt()
    return root / run


def _sites(made: list[Record]) -> pd.DataFrame:
    """Simultaneous bands, wider than the intervals of single sites, for the first domain's levels."""
    kept = [
        r for r in made
        if (r.metric, r.control, r.floor, r.test_domain) == ("read", "", "strong", DOMAINS[0]) and r.value is not None
        and r.level not in ("prior", "baseline") and not r.level.startswith("hypothesis:")
    ]  # fmt: skip
    return pd.DataFrame(
        [
            {"record": r.id, "hook": r.hook, "level": r.level, "source": r.source, "k": r.k, "value": r.value,
             "low": r.low, "high": r.high, "band_low": r.value - 0.05, "band_high": r.value + 0.06, "p_max": 0.005,
             "p_site": 0.005, "select_bits": r.bits, "chosen": float(r.hook.endswith("5.hook_resid_post"))}
            for r in kept
        ]
    )  # fmt: skip


def _losses(record: Record) -> Losses:
    groups = [f"game{i}" for i in range(5)]
    value = 0.0 if record.value is None else record.value
    return Losses(record.id, groups, [value + 0.01 * i for i in range(5)], [1.0] * 5, [20] * 5)
