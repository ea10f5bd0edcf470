"""The job bench: a whole job on a real model beside its forward passes alone, and beside the script that it replaces.

The script is what a researcher writes: TransformerLens' `run_with_cache`, text by text, the last token of each layer;
then StandardScaler and LogisticRegressionCV per layer over grouped folds. It has a probe, and no floor, interval or
control; its folds are those of the job. It chooses its penalty by accuracy, as the library does unless told otherwise,
and a second time by bits, as the job does: where little can be read the two rank rows differently.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probekit.inputs.filetask import read_file_task
from probekit.jobs.probe import LEVELS
from probekit.jobs.runner import run_job
from probekit.metrics.auroc import auroc
from probekit.metrics.splits import Split, splits_by_group
from probekit.model.loading import load_model
from probekit.model.model import Model
from probekit.model.reading import batches, most_tokens, pad_right
from probekit.proofs.bench import Row, timed
from probekit.proofs.studies.statements import write_statements
from probekit.results.tables import layers
from probekit.spec import JobSpec
from probekit.task import Task

BATCH_TOKENS = 4096
CRITERIA = {"accuracy": None, "bits": "neg_log_loss"}  # what the script chooses its penalty by
ALL_SITES, FEW_SITES = ("hook_embed", "blocks.*.hook_resid_post"), ("blocks.0.hook_resid_post",)
Say = Callable[[str], None]


@dataclass(frozen=True)
class JobSize:
    """share: of all statements; hooks: what is read; levels: of readers."""

    share: float
    hooks: tuple[str, ...]
    levels: tuple[str, ...]


FULL = JobSize(1.0, ALL_SITES, LEVELS)
QUICK = JobSize(0.1, FEW_SITES, ("prior", "baseline", "linear"))


def job_bench(model: Path, size: JobSize, folder: Path, say: Say) -> Iterator[Row]:
    """Rows: the job without and with the twin beside the forwards, and beside the script.

    ratio: peer over ours. gap: the largest distance of a layer's AUROC from the script's, 0 beside the forwards; the
    AUROCs themselves are said.
    bound_ratio: our time over the forwards'.
    """
    file = folder / "statements.csv"
    write_statements(file, share=size.share)
    job = JobSpec.check(_asked(model, size, file, twin=False), "bench")
    loaded = load_model(model)
    task = read_file_task(job.task, folder, loaded.encoder)
    hooks = [hook.name for hook in loaded.hooks(size.hooks)]
    _, forwards = timed(_forwards, loaded, task)
    say(f"forwards alone: {forwards:.1f} s for {len(task.tokens):,} texts")
    splits = splits_by_group(task.group, job.seed_data, *job.read.folds_of(len(task.tokens)))
    script = _script(loaded, task, hooks, splits, say)
    del loaded
    gc.collect()
    for twin in (False, True):
        spec = JobSpec.check(_asked(model, size, file, twin), "bench")
        run, mine = timed(partial(run_job, spec, root=folder / "runs", store=folder / f"store-{twin}"))
        timings = run.manifest["provenance"]["timings"]
        say(f"job, twin {twin}: {mine:.1f} s ({', '.join(f'{name} {s:.1f}' for name, s in timings.items())})")
        what = f"{len(hooks)} sites, one label and one choice, twin {'on' if twin else 'off'}"
        yield Row.of(what, "forwards alone, hf", mine, forwards, 0.0, forwards)
        told = layers(run.records, behaviour="truth").set_index("hook")["auroc"]
        ours = np.array([told[hook] for hook in hooks], dtype=np.float64)
        for criterion, (theirs, found) in script.items():
            gap = float(np.abs(ours - [found[hook] for hook in hooks]).max())
            peer = f"run_with_cache and LogisticRegressionCV by {criterion}, two labels"
            yield Row.of(what, peer, mine, theirs, gap, forwards)
        aurocs = zip(hooks, ours, *([found[hook] for hook in hooks] for _, found in script.values()), strict=True)
        say("AUROC of the job, of the script by " + " and by ".join(script) + ": "
            + ", ".join(f"{hook} {' '.join(f'{one:.3f}' for one in all_of)}" for hook, *all_of in aurocs))  # fmt: skip


def _asked(model: Path, size: JobSize, file: Path, twin: bool) -> dict[str, Any]:
    says = {"name": "says", "kind": "choice", "tokens": [" true", " false"]}
    return {
        "name": "bench",
        "model": {"name": str(model), "twin": twin, "backend": "hf"},
        "task": {"file": str(file), "text": "statement", "group": "entity",
                 "behaviours": [{"name": "truth", "kind": "label", "column": "truth"}, says]},
        "read": {"hooks": list(size.hooks), "levels": list(size.levels), "decomposition": False, "extrapolate": False,
                 "controls": ["permuted", *(["random_twin"] if twin else [])]},
    }  # fmt: skip


def _forwards(model: Model, task: Task) -> None:
    """Every text through the model in the batches of a capture, nothing kept."""
    lengths = np.asarray([len(row) for row in task.tokens])
    for examples in batches(lengths, most_tokens(model, BATCH_TOKENS)):
        ids, mask = pad_right(model, [task.tokens[i] for i in examples])
        with model.hooked({}, "hf"):
            model.forward(ids, mask, torch.from_numpy(np.unique(lengths[examples] - 1)), backend="hf")


def _script(
    model: Model, task: Task, hooks: Sequence[str], splits: Sequence[Split], say: Say
) -> dict[str, tuple[float, dict[str, float]]]:
    """By each of CRITERIA: (seconds for two labels, AUROC of the first by layer)."""
    rows, cached = timed(_cached, model, task, hooks)
    say(f"run_with_cache: {cached:.1f} s")
    label, out = task.labels["truth"].law[:, 1].astype(np.int64), {}
    for criterion, scoring in CRITERIA.items():
        seconds, found = cached, {}
        for hook in hooks:
            found[hook], once = timed(_fitted, rows[hook], label, splits, scoring)
            seconds += 2 * once  # the choice costs what the label does
        out[criterion] = seconds, found
    return out


def _cached(model: Model, task: Task, hooks: Sequence[str]) -> dict[str, NDArray]:
    """The last token of each text at each hook point."""
    rows: dict[str, list[NDArray]] = {hook: [] for hook in hooks}
    for tokens in task.tokens:
        with torch.inference_mode():
            _, cache = model.bridge.module.run_with_cache(torch.from_numpy(tokens)[None], names_filter=list(hooks))
        for hook in hooks:
            rows[hook].append(cache[hook][0, -1].numpy())
    model.bridge.clear()
    return {hook: np.stack(kept) for hook, kept in rows.items()}


def _fitted(x: NDArray, label: NDArray[np.int64], splits: Sequence[Split], scoring: str | None) -> float:
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    odds, told = [], []
    for split in splits:
        both = np.sort(np.concatenate([split.fit, split.select]))
        folds = [tuple(np.searchsorted(both, rows) for rows in pair) for pair in split.inner]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of defaults that will change, and of steps at small penalties
            chosen = LogisticRegressionCV(cv=folds, max_iter=1_000, scoring=scoring)  # pyright: ignore[reportArgumentType]
            probe = make_pipeline(StandardScaler(), chosen)
            probe.fit(x[both], label[both])
        odds.append(probe.decision_function(x[split.test]))
        told.append(label[split.test])
    return auroc(np.concatenate(odds), np.concatenate(told))
