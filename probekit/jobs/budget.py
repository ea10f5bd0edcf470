"""Budget: what a run may take, beside what it is known to need before it starts, and the clock that stops it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from probekit.errors import OutOfTime, OverBudget
from probekit.jobs.plan import forecast_of
from probekit.jobs.progress import time_left
from probekit.records import digest
from probekit.spec import BudgetSpec, JobSpec

if TYPE_CHECKING:
    from probekit.jobs.engines import Progress
    from probekit.jobs.forecast import Forecast
    from probekit.model.model import Model
    from probekit.task import Task

GIGA = 10**9
SPENT = "the minutes of its budget are spent"


@dataclass(frozen=True)
class Needs:
    """What is known to be needed here: seconds of captures and of edited runs, as multiplications at the speed of this
    processor, and bytes of activations. None where files do not tell. Readers are fitted on top of it."""

    capture: float | None = None
    edited: float | None = None
    n_bytes: int | None = None

    def said(self) -> str:
        """For people: `3 min or more and 0.12 GB of activations`."""
        seconds = (self.capture or 0) + (self.edited or 0)
        known = [f"{time_left(seconds)} or more"] if self.capture is not None else []
        known += [f"{self.n_bytes / GIGA:.3g} GB of activations"] if self.n_bytes is not None else []
        return " and ".join(known) or "what cannot be told before the model is loaded"

    def over(self, budget: BudgetSpec) -> str:
        """Which part of a budget is passed: `minutes`, `gigabytes` or neither."""
        if budget.gigabytes is not None and (self.n_bytes or 0) > budget.gigabytes * GIGA:
            return "gigabytes"
        seconds = (self.capture or 0) + (self.edited or 0)
        return "minutes" if budget.minutes is not None and seconds > 60 * budget.minutes else ""


def needs_of(spec: JobSpec, base: Path) -> Needs:
    """Of a job on a file, whose model's config is at hand; nothing is known of others."""
    return needs_from(forecast_of(spec, base))


def needs_from(found: "Forecast | None") -> Needs:
    """The same of a job that was forecast already."""
    if found is None:
        return Needs()
    edited = [one.seconds for one in found.edited]
    return Needs(found.seconds, None if None in edited else sum(filter(None, edited)), found.n_bytes)


def together(needs: Sequence[tuple[JobSpec, Needs]]) -> Needs:
    """Of several jobs: what jobs of one model, task and list of hook points have captured is counted once."""
    captured = {capture_key(job): one for job, one in needs}.values()
    return Needs(
        None if any(one.capture is None for one in captured) else sum(one.capture or 0 for one in captured),
        sum(one.edited or 0 for _, one in needs),
        None if any(one.n_bytes is None for one in captured) else sum(one.n_bytes or 0 for one in captured),
    )


def capture_key(job: JobSpec) -> str:
    """Equal for jobs that read the same rows of the store."""
    asked = job.model_dump(
        mode="json", include={"model", "task", "backend", "seed_probe"}
    )  # the twin is drawn by the last
    read = job.read.model_dump(mode="json", include={"hooks", "delete", "filler"})
    drawn = job.seed_data if job.task.testbed else None  # which examples a testbed gives
    return digest([asked, read, "random_twin" in job.read.controls, drawn])


def check_budget(spec: JobSpec, base: Path, *, captured: bool) -> None:
    """Raise OverBudget for a job that is known to need more minutes. captured: whether the store has what it reads."""
    if spec.budget.minutes is None:
        return
    needs = needs_of(spec, base)
    needs = Needs(0.0 if captured else needs.capture, needs.edited)
    if needs.over(spec.budget):
        raise OverBudget(
            f"{spec.name} needs {needs.said()} here, readers not counted, and its budget is {said(spec.budget)}: raise "
            "[budget] minutes, or ask for fewer rows (task.n_examples) or hook points.",
            ((needs.capture or 0) + (needs.edited or 0)) / 60,
        )


def check_together(jobs: Sequence[JobSpec], base: Path, budget: BudgetSpec) -> None:
    """Raise OverBudget where the jobs of a file are known to need more room than it has."""
    if budget.gigabytes is None:
        return
    needs = together([(job, needs_of(job, base)) for job in jobs])
    if needs.over(BudgetSpec(gigabytes=budget.gigabytes)):
        raise OverBudget(
            f"{len(jobs)} jobs need {needs.said()} together, and their budget is {said(budget)}: raise [budget] "
            "gigabytes, or ask for fewer rows (task.n_examples) or hook points, or bfloat16."
        )


def room_of(spec: JobSpec, model: "Model", task: "Task", n_deleted: int) -> int:
    """Bytes of the activations that a job reads. n_deleted: spans that texts are captured without, one by one."""
    widths = [model.widths[hook.name] for hook in model.hooks(spec.read.hooks)]
    return len(task.row_example) * sum(widths) * model.dtype.itemsize * (1 + spec.wants_twin + n_deleted)


def check_room(spec: JobSpec, model: "Model", task: "Task", n_deleted: int) -> None:
    """Raise OverBudget where the activations that a job reads take more than its budget has."""
    if spec.budget.gigabytes is None:
        return
    n_bytes = room_of(spec, model, task, n_deleted)
    if n_bytes > spec.budget.gigabytes * GIGA:
        raise OverBudget(
            f"{spec.name} needs {n_bytes / GIGA:.3g} GB of activations and its budget is {spec.budget.gigabytes:g} GB: "
            "raise [budget] gigabytes, or ask for fewer rows (task.n_examples) or hook points, or bfloat16."
        )


def said(budget: BudgetSpec) -> str:
    """For people: `30 min and 2 GB`, what is limited of it."""
    minutes = [] if budget.minutes is None else [time_left(60 * budget.minutes)]
    return " and ".join(minutes + ([] if budget.gigabytes is None else [f"{budget.gigabytes:g} GB"])) or "not limited"


def line_of(needs: Needs, budget: BudgetSpec, *, several: bool = False) -> str:
    """For people: a budget beside what is known to be needed, and what `run` does where that is more. several: jobs."""
    over = needs.over(budget)
    stops = over == "minutes" and several
    then = "run stops where they are spent, and goes on when called again" if stops else "run refuses to start"
    told = f", which passes its {over}: {then}" if over else ""
    return f"budget: {said(budget)}; known to be needed: {needs.said()}{told}"


class TimeLimit:
    """Minutes from now on; None is no limit."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._end = clock, None if minutes is None else clock() + 60 * minutes

    @property
    def left(self) -> float | None:
        """Minutes, 0 where none is left."""
        return None if self._end is None else max(0.0, (self._end - self._clock()) / 60)

    def watching(self, progress: "Progress | None") -> "Progress | None":
        """The same that raises OutOfTime where time is up and something is left to do: before a cell, or in a capture
        after a batch."""
        if self._end is None:
            return progress

        def say(what: str, done: int, total: int, left: float | None = None) -> None:
            if progress:
                progress(what, done, total, left)
            if self.left == 0 and done < total:
                raise OutOfTime(f"{SPENT}; the same call resumes.")

        return say
