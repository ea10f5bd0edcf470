"""The pages of the documentation that are made: docs/spec.md, the options in docs/cli.md, the tables of docs/truth.md.

The first two are made from the code, the last from docs/truth.json. `python -m probekit.cli.reference docs` (or
`make docs`) writes them; a test holds them to what it would write.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from probekit import spec

SPEC_HEAD = """# Every key of a job

A job is a TOML file. `probekit plan JOB` checks it, `probekit run JOB` measures it. An unknown key is an error that
names the nearest one. [README](../README.md) has a first job, [text.md](text.md) a longer one. `measure(...)` takes the
keys of `[read]` as arguments, `load_task(...)` those of `[task]`.

This page is made from `probekit/spec.py` by `make docs`.
"""
TABLES = {
    "": spec.JobSpec,
    "[model]": spec.ModelSpec,
    "[task]": spec.TaskSpec,
    "[[task.behaviours]]": spec.BehaviourEntry,
    "[[task.features]]": spec.FeatureEntry,
    "[task.sampled]": spec.SampledSpec,
    "[[task.chat]]": spec.Turn,
    "[read]": spec.ReadSpec,
    "[replace]": spec.ReplaceSpec,
    "[compose]": spec.ComposeSpec,
    "[steer]": spec.SteerSpec,
    "[transfer]": spec.TransferSpec,
    "[budget]": spec.BudgetSpec,
    "[across]": spec.AcrossSpec,
    "[[hypotheses]]": spec.HypothesisEntry,
    "[[directions]]": spec.DirectionsEntry,
}
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
_BOUNDS = {"gt": "above", "ge": "at least", "le": "at most", "lt": "below", "pattern": "of the form", "min_length": ""}
OPTIONS = re.compile(r"(<!-- options of `probekit ([a-z ]+)` -->\n).*?(<!-- end -->)", re.S)


def spec_page() -> str:
    """All of docs/spec.md."""
    return "\n".join([SPEC_HEAD, *(_table(name, model) for name, model in TABLES.items())])


def with_options(page: str) -> str:
    """docs/cli.md with the table of each command's options as they are now. Raises KeyError for no command."""
    known = commands()
    return OPTIONS.sub(lambda found: found[1] + known[found[2]] + found[3], page)


def commands() -> dict[str, str]:
    """Of each command (`cache ls`), what it does and a table of its arguments and options, in Markdown."""
    from probekit.cli.main import app

    return {name: _options(name, command) for name, command in _commands("", typer.main.get_command(app))}


def _table(name: str, model: type[BaseModel]) -> str:
    title = f"`{name}`" if name else "The top of the file"
    paragraphs = inspect.cleandoc(model.__doc__ or "").split(">>>")[0].strip().split("\n\n")
    said = "\n\n".join(_cell(paragraph) for paragraph in paragraphs)
    rows = [
        f"| `{key}` | {_cell(_type(field.annotation, _bounds(field.metadata)))} | {_default(field)} "
        f"| {_cell(field.description or '')} |"
        for key, field in model.model_fields.items()
    ]
    head = [f"## {title}\n\n{said}\n", "| key | type and values | default | what it is |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, ""])


def _type(annotation: Any, bounds: str = "") -> str:
    """A type in words: `list of whole numbers above 0`."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0], _bounds(inner[1:]) or bounds)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (UnionType, Union):
        return " or ".join(dict.fromkeys(_type(one, bounds) for one in inner if one is not type(None)))
    if origin is tuple:
        same = inner[-1] is Ellipsis
        return f"list of {_type(inner[0])}" if same else f"pair of {_type(inner[0])}"
    if origin is dict:
        return f"table of {_type(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return next(f"`{name}`" for name, model in TABLES.items() if model is annotation)
    return f"{_WORDS[annotation]} {bounds}".strip()


def _bounds(metadata: Any) -> str:
    """What annotations allow of a number or a text: `above 0`."""
    found = []
    for one in metadata:
        parts = getattr(one, "metadata", None) or [one]  # Annotated inside Annotated
        found += [f"{word} {_code(getattr(part, name))}" for part in parts for name, word in _BOUNDS.items()
                  if word and getattr(part, name, None) is not None]  # fmt: skip
    return " and ".join(found)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    value = field.default
    if value is None or isinstance(value, BaseModel) or value in ((), {}, ""):
        return ""
    if isinstance(value, tuple):
        return "[" + ", ".join(_code(one) for one in value) + "]"
    return _code(value)


def _code(value: Any) -> str:
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command below this one."""
    inside = getattr(command, "commands", None)
    if inside is None:
        yield name, command
        return
    for part, one in inside.items():
        yield from _commands(f"{name} {part}".strip(), one)


def _options(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    told = " ".join(_metavar(one) for one in arguments)
    rows = [_option(one) for one in [*arguments, *(one for one in command.params if one not in arguments)]]
    head = ["| | default | |", "|---|---|---|"] if rows else []
    said = _cell((command.help or "").split("\f")[0])
    return "\n".join([f"\n`probekit {name}{' ' + told if told else ''}`: {said}\n", *head, *rows, "", ""])


def _metavar(one: Any) -> str:
    name = (one.metavar or one.name.upper()).strip("[]")
    return name if one.required else f"[{name}]"


def _option(one: Any) -> str:
    is_argument = one.param_type_name == "argument"
    names = [_metavar(one).strip("[]")] if is_argument else [*one.opts, *one.secondary_opts]
    plain = one.default is None or one.default is False or one.default == "" or one.required
    default = "**required**" if one.required else "" if plain else f"`{_place(one.default)}`"
    return f"| {', '.join(f'`{name}`' for name in names)} | {default} | {_cell(one.help or '')} |"


def _place(default: Any) -> str:
    """A default as it is on any machine."""
    return str(default).replace(str(Path.home()), "~")


def truth_page(folder: Path) -> str:
    """docs/truth.md with its tables as the numbers beside it have them."""
    from probekit.proofs.studies.truth import Findings, with_tables

    return with_tables((folder / "truth.md").read_text(encoding="utf-8"), Findings.read(folder / "truth.json"))


def studies_pages(folder: Path) -> dict[Path, str]:
    """docs/dispute.md and the pages of docs/studies, with tables and pictures as the numbers have them."""
    from probekit.proofs.studies import dispute
    from probekit.proofs.studies.alone import ALONE, PAGES
    from probekit.proofs.studies.truth import filled

    page, claims = folder / "dispute.md", dispute.claims(folder / "studies")
    made = {page: filled(page.read_text(encoding="utf-8"), dispute.tables(claims)),
            page.with_suffix(".svg"): dispute.picture_of(claims)}  # fmt: skip
    for name in PAGES:
        made |= ALONE[name].pages(folder / "studies" / f"{name}.md")
    return made


def text_page(folder: Path) -> str:
    """docs/text.md with its tables as the numbers beside it have them."""
    from probekit.proofs.studies.pronouns import tables
    from probekit.proofs.studies.truth import Findings, with_tables

    page, found = (folder / "text.md").read_text(encoding="utf-8"), Findings.read(folder / "pronouns.json")
    return with_tables(page, found, tables)


def causal_page(folder: Path) -> str:
    """docs/causal.md with its tables as the numbers beside it have them."""
    from probekit.proofs.studies import equality, metrics, used
    from probekit.proofs.studies.truth import Findings, filled

    made = used.tables(Findings.read(folder / "used.json"))
    made |= equality.tables(equality.EqualityFindings.read(folder / "equality.json"))
    made |= metrics.tables(metrics.MetricsFindings.read(folder / "metrics.json"))
    return filled((folder / "causal.md").read_text(encoding="utf-8"), made)


def scale_page(folder: Path) -> str:
    """docs/scale.md with its tables as the run of the bench beside it has them."""
    from probekit.proofs.bench.scale import tables
    from probekit.proofs.studies.truth import filled
    from probekit.storage.files import read_json

    return filled((folder / "scale.md").read_text(encoding="utf-8"), tables(read_json(folder / "scale.json")))


def benchmarks_page(folder: Path) -> str:
    """docs/benchmarks.md with the table of edited texts as the run of the bench beside it has it."""
    from probekit.proofs.bench.replace import tables
    from probekit.proofs.studies.truth import filled
    from probekit.storage.files import read_json

    return filled((folder / "benchmarks.md").read_text(encoding="utf-8"), tables(read_json(folder / "replace.json")))


def write(folder: Path) -> list[Path]:
    """Write the pages below `folder`, where all but spec.md are to be filled; returns them."""
    commands = with_options((folder / "cli.md").read_text(encoding="utf-8"))
    pages = {folder / "spec.md": spec_page(), folder / "cli.md": commands, folder / "truth.md": truth_page(folder),
             folder / "text.md": text_page(folder), folder / "causal.md": causal_page(folder),
             folder / "scale.md": scale_page(folder), folder / "benchmarks.md": benchmarks_page(folder),
             **studies_pages(folder)}  # fmt: skip
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return list(pages)


if __name__ == "__main__":
    for written in write(Path(sys.argv[1])):
        typer.echo(str(written))
