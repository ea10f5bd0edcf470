"""Code: a view as the Python or the command that makes it again. Pure: text out of what was chosen.

view = View("figure", "leak_map", "runs/othello", {"behaviour": "next_move"})
view.python()    # import probekit as pk ...
view.command()   # probekit figure leak_map othello --runs runs --behaviour=next_move
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from probekit.errors import BadInput

_OPTIONS = {
    "figure": ("behaviour", "domain", "hook", "level", "position", "metric", "arm", "k"),
    "table": ("behaviour", "domain", "position", "metric", "arm", "k", "hook", "level", "most"),
    "comparison": ("behaviour", "domain", "position", "metric", "arm", "k", "most"),
}
_ROWS = ("examples", "counterexamples", "plausible", "plausible_rates")


@dataclass(frozen=True)
class View:
    """What somebody is looking at: a figure, a table or a comparison, of a run folder, with what was chosen.

    kind: a figure's or table's name; of a comparison nothing. run: the run folder; other: B of a comparison. chosen: as
    `figure`, `table` and `compare` take it; what is None is left out.
    """

    what: Literal["figure", "table", "comparison"]
    kind: str
    run: str
    chosen: Mapping[str, Any] = field(default_factory=dict)
    other: str = ""
    template: str = "light"

    def python(self) -> str:
        """Lines of Python that make it, as `made`."""
        lines = ["import probekit as pk", "", f"run = pk.open_run({self.run!r})"]
        said = "".join(f", {name}={value!r}" for name, value in self._chosen)
        if self.what == "comparison":
            lines += [f"other = pk.open_run({self.other!r})", f"made = pk.compare(run, other{said})"]
        elif self.what == "table":
            given = "run" if self.kind in _ROWS else "run.records"
            lines.append(f"made = pk.table({self.kind!r}, {given}{said})")
        else:
            ground = "" if self.template == "light" else f", template={self.template!r}"
            lines.append(f"made = pk.figure({self.kind!r}, run.records{ground}{said})")
        return "\n".join(lines) + "\n"

    def command(self) -> str:
        """The command that prints a table as CSV, writes a figure or prints a comparison.

        Raises BadInput for a choice that the command has no option for.
        """
        known = _OPTIONS[self.what]
        if lacking := [name for name, _ in self._chosen if name not in known]:
            raise BadInput(f"the command has no option for {', '.join(lacking)}: take the Python.")
        folder = PurePath(self.run)
        words = {
            "figure": ["figure", self.kind, folder.name],
            "table": ["show", folder.name, "--table", self.kind, "--csv"],
            "comparison": ["compare", folder.name, self.other],
        }[self.what]
        # with =, so that a name that begins with a dash is no option
        words += ["--runs", str(folder.parent), *(f"--{name}={value}" for name, value in self._chosen)]
        words += ["--dark"] if self.what == "figure" and self.template == "dark" else []
        return "probekit " + shlex.join(words)

    @property
    def _chosen(self) -> list[tuple[str, Any]]:
        return [(name, value) for name, value in self.chosen.items() if value is not None]
