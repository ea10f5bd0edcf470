"""`probekit steer`: what a model writes with a direction added or erased. `measurement.causal.writing` does it."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from probekit.cli.out import JsonOption, console, print_json, reporting
from probekit.errors import BadInput, printable

if TYPE_CHECKING:
    from probekit.measurement.causal.writing import Along, EditedText
    from probekit.model.model import Model


def steer(
    model: Annotated[str, typer.Argument(help="A folder, a GGUF file, a hub name or a bundled testbed.")],
    direction: Annotated[
        Path, typer.Option("--direction", help="A .npy or .safetensors file of directions [k, d], or a saved reader.")
    ],
    prompt: Annotated[list[str], typer.Option("--prompt", help="What the user says; several times for several.")],
    hook: Annotated[
        str | None, typer.Option("--hook", help="Hook point, or a pattern of them; a file may say so itself.")
    ] = None,
    tensor: Annotated[str | None, typer.Option("--tensor", help="Which one, of a file of several.")] = None,
    row: Annotated[str, typer.Option("--row", help="Rows of the file, such as 3 or 3,5, from 0 on.")] = "",
    dose: Annotated[str, typer.Option("--dose", help="Times the direction as long as it is.")] = "0,1,2,4",
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Erase what the directions span, in place of doses.")
    ] = False,
    start: Annotated[
        str, typer.Option("--from", help="First edited token of the prompt: last, all, role:user:first, ...")
    ] = "last",
    once: Annotated[bool, typer.Option("--once", help="Edit that token alone, and none that is written.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="The prompt as it stands, in place of a chat.")] = False,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="That are written, at most.")] = 40,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random directions.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """What a model writes with a direction added in doses, or erased, beside random directions of the same length."""
    with reporting("steer", as_json):
        doses, rows = _doses(dose), _rows(row)
        from probekit.inputs.given import read_rows_of_directions
        from probekit.inputs.prompts import opened

        brought = read_rows_of_directions(direction, hook, tensor, rows)
        import numpy as np

        from probekit.measurement.causal.writing import Along, ablated_texts, lengths_at, steered_texts
        from probekit.model.loading import load_model

        loaded = load_model(model, device=device)
        plain = plain or not getattr(loaded.tokenizer, "chat_template", None)
        asked = [opened(loaded.encoder, text, start, plain, datetime.now()) for text in prompt]
        ids, first = [one for one, _ in asked], np.array([at for _, at in asked])
        directions = Along(_at_hooks(loaded, brought), first, not once, seed)
        made = ablated_texts(loaded, ids, directions, tokens) if ablate else (
            steered_texts(loaded, ids, directions, doses, tokens))  # fmt: skip
        lengths = lengths_at(loaded, ids, directions)
        if as_json:
            places = [{"tokens": len(one), "first": at} for one, at in asked]
            own = {name: along.norm(dim=0).tolist() for name, along in directions.at.items()}
            print_json("steer", True, [one.row() for one in made], prompts=prompt, places=places, lengths=lengths,
                       directions=own)  # fmt: skip
            return
        screen = console()
        for line in _told(prompt, made, directions, lengths, screen.width):
            screen.print(line, highlight=False, markup=False)


def _doses(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(abs(dose) < float("inf") for dose in found):
        raise BadInput(f"--dose is a list of numbers, such as 0,2,4; found '{text}'.")
    return found


def _rows(text: str) -> tuple[int, ...] | None:
    parts = [part.strip() for part in text.split(",")]
    if not text:
        return None
    if not all(part.isdigit() for part in parts):
        raise BadInput(f"--row is a list of whole numbers from 0 on, such as 3,5; found '{text}'.")
    return tuple(map(int, parts))


def _at_hooks(model: "Model", brought: dict) -> dict:
    """Directions [d, k] by hook point, a pattern spelt out; BadInput where a width does not fit."""
    import torch

    out = {}
    for pattern, rows in brought.items():
        for hook in model.hooks(pattern):
            if rows.shape[1] != model.widths[hook.name]:
                raise BadInput(
                    f"the directions have width {rows.shape[1]}, and activations at '{hook.name}' "
                    f"{model.widths[hook.name]}: a row is a direction."
                )
            out[hook.name] = torch.from_numpy(rows).float().T
    return out


def _told(
    prompts: Sequence[str], made: "Sequence[EditedText]", directions: "Along", lengths: dict[str, float], width: int
) -> Iterator[str]:
    """Lines for people: where it is edited, and every text below what was done."""
    hook, *others = directions.at
    sizes = directions.at[hook].norm(dim=0)
    many = f" and at {len(others)} other hook points" if others else ""
    if len(sizes) == 1:
        what = f"A direction of length {float(sizes[0]):.3g}"
    else:
        what = f"{len(sizes)} directions"
    told = (
        f"{what} at {hook}{many}, where edited activations have a mean length of {lengths[hook]:.3g}. Surprise is what "
        "the unedited model needs for a text, in bits per token."
    )
    yield from wrap(told, width)
    for number, prompt in enumerate(prompts):
        scope = "and of all behind it, those that are written too" if directions.on else "and of no other"
        yield ""
        yield from wrap(f"> {printable(prompt)}", width)
        yield from wrap(f"(edit of token {int(directions.first[number])}, from 0 on, {scope})", width)
        for one in (one for one in made if one.prompt == number):
            yield ""
            yield f"{_done(one)}, surprise {one.surprise:.2f}"
            for line in printable(one.text).splitlines() or [""]:
                yield from wrap(line, width, initial_indent="  ", subsequent_indent="  ") or [""]


def _done(one: "EditedText") -> str:
    if one.how == "unedited":
        return "unedited"
    what = "a random direction" if one.control else "the direction"
    return f"{what} erased" if one.how == "erased" else f"{one.dose:+g} times {what}"
