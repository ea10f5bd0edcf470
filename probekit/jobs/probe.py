"""`probe`: a model and a file of texts in, what each layer knows of a column out. The same run as a job in TOML."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false, reportGeneralTypeIssues=false, reportCallIssue=false

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import isfile  # which says no to a name that no path can have
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probekit.activations.capture import DEFAULT_STORE
from probekit.errors import BadInput
from probekit.inputs.columns import PAIR
from probekit.jobs.progress import progress as shown
from probekit.jobs.runner import run_job
from probekit.model.model import Model
from probekit.results.figures import figure, write_figure
from probekit.results.selection import pick
from probekit.results.summary import Summary, summary
from probekit.results.tables import layers
from probekit.spec import JobSpec
from probekit.storage.runs import Run

if TYPE_CHECKING:
    import pandas as pd

LEVELS = ("prior", "baseline", "direction", "linear")


@dataclass(frozen=True, repr=False)
class Probe:
    """What was found, in a run folder: printed, a few sentences and a map.

    run: the folder, with everything measured. behaviour: what was read. job: the TOML that measures it again.
    """

    run: Run
    behaviour: str
    job: str

    @property
    def frame(self) -> "pd.DataFrame":
        """A row per layer for the linear reader: value (unexplained share), low, high, auroc, accuracy, the floor's."""
        return layers(self.run.records, behaviour=self.behaviour)

    @property
    def summary(self) -> Summary:
        """The headline and the map."""
        return summary(self.run.records, behaviour=self.behaviour)

    def best(self) -> "pd.Series":
        """The layer that selection rows prefer, with the value that this choice leaves: not the best of test values."""
        rows = pick(self.run.records, behaviour=self.behaviour, metric="selected", position=None)
        rows = rows[rows["level"] == "linear"]
        if rows.empty:
            raise BadInput(f"no layer was chosen for '{self.behaviour}': nothing was read at two layers or more.")
        chosen = rows.iloc[0]
        found = self.frame.set_index("hook").loc[chosen["hook"]].copy()
        found["hook"] = chosen["hook"]
        for name in ("value", "low", "high"):
            found[name] = chosen[name]
        return found

    def figure(self, template: str = "light") -> Any:
        """A plotly figure: unexplained share along the layers, with intervals and controls."""
        return figure("layer_curves", self.run.records, behaviour=self.behaviour, template=template)

    def scores(self) -> "pd.DataFrame":
        """A row per text that was tested, a column per layer: what the linear reader says of a text it never saw.

        Of two classes the log odds of the second in alphabetical order (natural logarithm), of the activations alone;
        of more classes, missed bits; of a number, what is said of it. The index is the row of the file, from 0; of
        pairs a row is two texts, one after the other.
        """
        table = self.run.table("scores")
        table = table[table["behaviour"] == self.behaviour]
        told = next((name for name in ("log_odds", "number") if table[name].notna().any()), "missed_bits")
        wide = table.pivot_table(index="example", columns="hook", values=told, sort=False).sort_index()
        order = [hook for hook in self.frame["hook"] if hook in wide]
        return wide[order].rename_axis("row").rename_axis(columns=None)

    def save(self, folder: str | Path) -> Path:
        """Write layers.csv, scores.csv, layers.html and job.toml, which `probekit run` measures again."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.frame.to_csv(folder / "layers.csv", index=False)
        self.scores().to_csv(folder / "scores.csv")
        write_figure(self.figure(), folder / "layers.html")
        (folder / "job.toml").write_text(self.job, encoding="utf-8")
        return folder

    def __repr__(self) -> str:
        return str(self.summary)

    def _repr_html_(self) -> str:
        return self.summary._repr_html_()


def probe(
    model: Model | str | Path,
    file: str | Path,
    *,
    label: str | None = None,
    kind: str = "label",
    text: str | None = None,
    tokens: str | None = None,
    pair: Sequence[str] | None = None,
    group: str | None = None,
    domain: str | None = None,
    position: str | None = None,
    missing: str = "refuse",
    hooks: Sequence[str] = ("blocks.*.hook_resid_post",),
    levels: Sequence[str] = LEVELS,
    root: str | Path = "runs",
    store: str | Path = DEFAULT_STORE,
    device: str = "cpu",
    progress: bool = True,
    **read: Any,
) -> Probe:
    """How well a label of one's own file is read off each layer of a model, beside what the text alone says.

    model: what `load_model` gave, or what it takes. file: CSV, JSONL or Parquet, a row per text. label: its column of
    classes, or of numbers with kind = "value". text: its column of texts, or a template such as "The capital of
    {country} is"; or tokens: its column of token ids; or pair: its two columns of texts that are a pair, such as
    ["good", "bad"]: two texts of one group, whose label, when it is left out, is which of the two each is. group: its
    column of what could be memorised, such as the entity a text is about; no group is both fitted and tested. domain:
    its column of situations, of which the first in the file is fitted. position: where a text is read, its last token
    when left out. missing: "drop" leaves rows out that lack a value in one of these columns, and says how many. hooks:
    TransformerLens names. progress: whether lines on stderr tell how far it is. read: further keys of a job's [read]
    table. A run that was made before is returned as it is. Raises BadInput in one sentence for anything wrong.

    >>> import probekit as pk
    >>> pk.probe("./nowhere", "my.csv", text="statement", label="true")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    probekit.errors.BadInput: no file my.csv...
    """
    import tomli_w

    path = Path(file)
    if not isfile(path):
        raise BadInput(f"no file {path}: give the path of a CSV, JSONL or Parquet file.")
    given = model if isinstance(model, Model) else None
    label = PAIR if label is None and pair is not None else label
    optional = {**_source(text, tokens, pair), "group": group, "domain": domain, "position": position,
                "missing": missing}  # fmt: skip
    if label is None:
        raise BadInput("probe reads a label off each text: name its column, label=.")
    if kind not in ("label", "value"):
        raise BadInput(f"probe reads a column as `label` or as `value`; found kind '{kind}'.")
    job: dict[str, Any] = {
        "name": _name(path),
        "model": _told(given) if given else {"name": str(model), "twin": False},
        "task": {"file": str(path.resolve()), **{key: v for key, v in optional.items() if v is not None},
                 "behaviours": [{"name": label, "kind": kind, "column": label}]},
        "read": {"hooks": list(hooks), "levels": list(levels), "controls": ["permuted"],
                 "decomposition": False, "extrapolate": False} | read,
        **({"transfer": {"levels": ["linear"]}} if domain is not None else {}),
    }  # fmt: skip
    spec = JobSpec.check(job, "probe")
    if progress:
        with shown() as say:
            run = run_job(spec, model=given, root=root, store=store, device=device, progress=say)
    else:
        run = run_job(spec, model=given, root=root, store=store, device=device)
    return Probe(run, label, tomli_w.dumps(job))


def _source(text: str | None, tokens: str | None, pair: Sequence[str] | None) -> dict[str, Any]:
    """The key of [task] that says what is read, and its value."""
    named = {"text": text, "tokens": tokens, "pair": None if pair is None else list(pair)}
    given = {key: value for key, value in named.items() if value is not None}
    if len(given) != 1:
        found = " and ".join(f"`{key}`" for key in given) or "none"
        raise BadInput(f"probe reads `text`, `tokens` or a `pair`, of the file's columns; found {found}: name one.")
    return {"template": text} if text is not None and "{" in text else given


def _told(model: Model) -> dict[str, Any]:
    """The [model] table that loads this one again."""
    named = model.name.removesuffix(f"+{Path(model.adapter).name}") if model.adapter else model.name
    if named not in (model.source, Path(model.source).name):
        raise BadInput(f"{model.name} was made in memory, which no job can load again: save it, and give its folder.")
    asked = {"dtype": str(model.dtype).removeprefix("torch."), "bos": model.bos, "eos": model.eos}
    more = {"revision": model.revision, "adapter": model.adapter}
    return {"name": model.source, "twin": False, **asked} | {key: value for key, value in more.items() if value}


def _name(path: Path) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in path.stem).strip("._-")[:60]
    return kept or "probe"
