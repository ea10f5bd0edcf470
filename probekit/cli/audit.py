"""`probekit audit`: whether activations that another engine wrote are those of its requests."""

from pathlib import Path
from typing import Annotated

import typer

from probekit.cli.out import JsonOption, console, plain_table, print_json, reporting, rows
from probekit.errors import BadInput
from probekit.jobs.progress import progress


def audit(
    folder: Annotated[Path, typer.Argument(help="A safetensors file for each request: token ids and hidden states.")],
    model: Annotated[str, typer.Option("--model", help="What computed them: a folder, GGUF file or hub name.")],
    layers: Annotated[
        str, typer.Option("--layers", help="Blocks run before each layer of the files, as 0,8,16; 0 is the embeddings.")
    ] = "",
    order: Annotated[
        str, typer.Option("--order", help="tokens or layers: the states' first axis, where shapes do not tell.")
    ] = "",
    requests: Annotated[int, typer.Option("--requests", min=1, help="How many are looked at, with neighbours.")] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides which.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Compare each row with a plain forward of its tokens, and say what wrong ones hold; exit code 1 if there are any.

    Right rows differ by rounding in single precision. A wrong one is looked for one layer aside, behind the final norm,
    at other tokens and in other requests.
    """
    with reporting("audit", as_json):
        from probekit.activations.foreign import audit_requests
        from probekit.inputs.requests import read_requests
        from probekit.model.loading import load_model

        asked, found = _layers(layers), read_requests(folder, order)
        with progress() as say:
            told = audit_requests(found, load_model(model, device=device), asked, requests, seed, progress=say)
        if as_json:
            counts = {"requests": list(told.requests), "layers": list(told.layers), "order": found.order,
                      "hint": told.hint}  # fmt: skip
            print_json("audit", told.right, rows(told.summary), **counts)
        else:
            looked, of = told.requests
            screen = console()
            screen.print(
                f"{looked} of {of} requests, {len(told.rows):,} rows at {len(told.layers)} layers, "
                f"[{found.order} first], {', '.join(found.dtypes)}"
            )
            cells = [[r["verdict"], f"{r['rows']:,}", f"{r['share']:.1%}", r["requests"], r["example"]]
                     for r in rows(told.summary)]  # fmt: skip
            screen.print(plain_table(["rows that are", "rows", "share", "requests", "such as"], cells))
            if told.hint:
                screen.print(told.hint)
    if not told.right:
        raise typer.Exit(1)


def _layers(text: str) -> list[int] | None:
    if not text:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"--layers is '{text}': give whole numbers with commas between, as 0,8,16.") from None
