"""`probekit cache`: the commands that look after the store. Only `why`, which loads a model, needs torch.

Exit codes of `verify`: 0 all is whole, 1 something is damaged, 2 it could not be looked at. Of `gc`: 0 the store is
within the budget (or would be), 1 what may not be deleted is more than that.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting
from probekit.errors import BadInput, StoreError
from probekit.jobs.progress import told_bytes

if TYPE_CHECKING:
    from probekit.storage.cache import Entry


cache = typer.Typer(help="Look after the stored activations.", no_args_is_help=True)
StoreOption = Annotated[Path, typer.Option("--store", help="Folder that activations are kept in.")]
KeyArgument = Annotated[str, typer.Argument(help="A key, or as much of its start as is unique.")]
STORE = Path("cached_activations")


@cache.command("ls")
def ls(store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """List what the store holds, least recently used first."""
    with reporting("cache ls", as_json):
        from probekit.storage.cache import entries, left_behind

        found = sorted(entries(_root(store)), key=lambda entry: (entry.used, entry.key))
        left = left_behind(store)
        if as_json:
            n_bytes = sum(e.n_bytes for e in found)
            print_json("cache ls", True, [entry.row() for entry in found], bytes=n_bytes, left_behind=left)
            return
        _print(found, f"{store}: {told_bytes(sum(e.n_bytes for e in found))}")
        if left:
            typer.echo(
                f"{told_bytes(left)} are left from captures that stopped: resuming uses them, `gc` removes them."
            )


@cache.command("verify")
def verify(
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, not only sizes and headers.")] = False,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Compare what is on disk with what its manifests say."""
    with reporting("cache verify", as_json):
        from probekit.storage import cache as room

        try:
            found = room.verify(_root(store), deep)
        except StoreError as error:
            raise BadInput(str(error)) from None
        damaged = [entry for entry in found if entry.state == "damaged"]
        if as_json:
            print_json("cache verify", not damaged, [entry.row() for entry in found], deep=deep)
        else:
            partial = sum(entry.state == "partial" for entry in found)
            for entry in damaged:
                console().print(f"{entry.key}: {entry.problem}")
            read = "every byte" if deep else "sizes and headers"
            console().print(f"{len(found)} groups ({read}): {len(damaged)} damaged, {partial} not finished.")
    if damaged:
        raise typer.Exit(1)


@cache.command("why")
def why(
    spec: Annotated[Path, typer.Argument(help="A job in TOML.")],
    store: StoreOption = STORE,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Say whether a job's activations are stored, and if not, what differs from the entry that comes closest."""
    with reporting("cache why", as_json):
        from probekit.records import digest
        from probekit.spec import JobSpec
        from probekit.storage import cache as room

        root, job_spec = _root(store), JobSpec.read_toml(spec)
        from probekit.activations.keys import capture_spec
        from probekit.jobs.job import Job

        job = Job.load(job_spec, spec.parent, device)
        asked = job_spec.backend
        # what `auto` would take is known once the model has been run: either entry is a hit, the likelier one explained
        for backend in ("bridge", "hf") if asked == "auto" else (asked,):
            said = capture_spec(job.model, job.task, backend)
            found = room.why(root, digest(said["parts"], 32), said)
            if found.present:
                break
        complete = {
            name for entry in room.entries(root) if (entry.key, entry.state) == (found.key, "complete")
            for name in entry.names
        }  # fmt: skip
        missing = [hook.name for hook in job.model.hooks(job_spec.read.hooks) if hook.name not in complete]
        rows = [{"part": part, "asked": asked, "stored": stored} for part, asked, stored in found.differences]
        if as_json:
            print_json("cache why", True, rows, key=found.key, present=found.present, nearest=found.nearest,
                       missing=missing)  # fmt: skip
            return
        if found.present and not missing:
            console().print(f"{found.key} is stored.")
        elif found.present:
            console().print(f"{found.key} is stored, but not {', '.join(missing)}: a run captures what is missing.")
        elif found.nearest is None:
            console().print(f"{found.key} is not stored, and nothing else is.")
        else:
            console().print(f"{found.key} is not stored; the closest is {found.nearest}, which differs in:")
        for row in rows:
            console().print(f"  {row['part'].removeprefix('parts.')}: asked {row['asked']}, stored {row['stored']}")


@cache.command("gc")
def gc(
    budget: Annotated[str, typer.Option("--budget", help="What may remain, such as 200GB.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Delete the least recently used until the store is within a budget; pinned entries and open captures stay."""
    with reporting("cache gc", as_json):
        from probekit.storage import cache as room

        root, limit = _root(store), room.parse_bytes(budget)
        deleted, remaining = room.gc(root, limit, dry_run)
        over = {} if remaining <= limit else {"error": _over(root, remaining, limit)}
        if as_json:
            rows = [entry.row() for entry in deleted]
            print_json("cache gc", not over, rows, dry_run=dry_run, bytes=remaining, budget=limit, **over)
        else:
            if deleted:
                _print(deleted, "would be deleted" if dry_run else "deleted")
            said = over.get("error", f"{told_bytes(remaining)} remain of a budget of {told_bytes(limit)}.")
            console(err=bool(over)).print(said)
    if over:
        raise typer.Exit(1)


@cache.command("pin")
def pin(
    key: Annotated[
        str | None, typer.Argument(help="A key, or as much of its start as is unique; with --off: all when left out.")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="Take the pin away.")] = False,
    label: Annotated[str, typer.Option(help="Who holds it, such as the name of a run.")] = "user",
    store: StoreOption = STORE,
    as_json: JsonOption = False,
) -> None:
    """Keep an entry from gc; a run pins what it reads under its own name."""
    with reporting("cache pin", as_json):
        from probekit.storage import cache as room

        root = _root(store)
        if key is None and not off:
            raise BadInput("which entry is to be pinned? Give its key: `probekit cache ls` lists them.")
        if key is None:
            held = room.release(root, label)
        else:
            held = [_find(root, key)]
            (room.unpin if off else room.pin)(root, held[0], label)
        if as_json:
            print_json("cache pin", True, [{"key": each, "label": label, "pinned": not off} for each in held])
            return
        for each in held:
            typer.echo(f"{each} is no longer pinned by {label}." if off else f"{each} is pinned by {label}.")


@cache.command("rm")
def rm(key: KeyArgument, store: StoreOption = STORE, as_json: JsonOption = False) -> None:
    """Delete one entry, which costs time and never results."""
    with reporting("cache rm", as_json):
        from probekit.storage import cache as room

        root = _root(store)
        deleted = room.remove(root, _find(root, key))
        if as_json:
            print_json("cache rm", True, [entry.row() for entry in deleted])
        else:
            _print(deleted, "deleted")


def _root(store: Path) -> Path:
    if not (store / "STORE.json").exists():
        raise BadInput(f"{store} holds no store: give the folder with --store; `probekit run` makes one.")
    return store


def _find(root: Path, start: str) -> str:
    from probekit.storage.cache import entries

    keys = sorted({entry.key for entry in entries(root) if entry.key.startswith(start)})
    if len(keys) != 1:
        found = f"{len(keys)} keys start with '{start}'" if keys else f"no key starts with '{start}'"
        raise BadInput(f"{found}: `probekit cache ls` lists them.")
    return keys[0]


def _over(root: Path, remaining: int, budget: int) -> str:
    """Why a budget is not met."""
    from probekit.storage.cache import entries

    pins = ", ".join(sorted({label for entry in entries(root) for label in entry.pins}))
    let_go = "`probekit cache pin --off --label NAME` lets go of what NAME pinned"
    why = f"pinned by {pins}, or being written: {let_go}" if pins else "being written: wait for that"
    return f"{told_bytes(remaining)} remain of a budget of {told_bytes(budget)}; they are {why}."


def _print(found: "list[Entry]", title: str) -> None:
    """A table that fits into 80 columns: what is short and compared in columns, what is long in lines of its own."""
    lines = []
    for entry in found:
        first, *others = entry.names or ("nothing",)
        model, task = entry.spec.get("model"), entry.spec.get("task")
        what = [
            " on ".join(str(part) for part in (model, task) if part),
            first + (f" and {len(others)} more" if others else ""),
            "pinned by " + ", ".join(entry.pins) if entry.pins else "",
        ]
        cells = (
            entry.key[:12],
            entry.state,
            told_bytes(entry.n_bytes),
            f"{entry.n_rows:,}",
            "\n".join(filter(None, what)),
        )
        lines.append(cells)
    console().print(plain_table(("key", "state", "size", "rows", "what"), lines, title))
