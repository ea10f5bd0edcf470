"""HookPoint: a place in the forward pass, parsed once. Nothing else in the package takes a hook name apart."""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from probekit.errors import UnknownHook, nearest

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
# Order within a block in the forward pass, for axes and for sorting; parts not named here come after, by name.
_PARTS = ("hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post", "hook_mlp_out",
          "hook_resid_post")  # fmt: skip


@dataclass(frozen=True)
class HookPoint:
    """A TransformerLens hook name. `layer` is None outside the blocks; `part` is the rest of the name.

    >>> import probekit as pk
    >>> pk.HookPoint.parse("blocks.3.hook_resid_post").layer
    3
    """

    name: str
    layer: int | None
    part: str

    @classmethod
    def parse(cls, name: str) -> "HookPoint":
        """`blocks.3.hook_resid_post` -> layer 3, part `hook_resid_post`."""
        match = _BLOCK.fullmatch(name)
        return cls(name, int(match[1]), match[2]) if match else cls(name, None, name)

    @classmethod
    def within(cls, layer: int, part: str) -> "HookPoint":
        """Layer 3, part `hook_resid_post` -> `blocks.3.hook_resid_post`."""
        return cls(f"blocks.{layer}.{part}", layer, part)

    def beside(self, part: str) -> str:
        """The name of another part of the same block."""
        return self.within(self.layer or 0, part).name

    @property
    def entry(self) -> int:
        """The lowest block that a change here can be seen in; n_layers for what the last block gives.

        >>> HookPoint.parse("blocks.3.hook_resid_post").entry, HookPoint.parse("blocks.3.hook_mlp_out").entry
        (4, 3)
        """
        return 0 if self.layer is None else self.layer + self.is_end

    @property
    def is_end(self) -> bool:
        """Whether it is what a block hands to the next one."""
        return self.layer is not None and self.part == _PARTS[-1]

    @property
    def order(self) -> tuple[float, int, str]:
        """Sort key: position in the forward pass."""
        rank = _PARTS.index(self.part) if self.part in _PARTS else len(_PARTS)
        before = self.layer is None and "embed" in self.name and "unembed" not in self.name
        layer = -1.0 if before else float("inf") if self.layer is None else float(self.layer)
        return layer, rank, self.name

    @property
    def short(self) -> str:
        """For people: `blocks.3.hook_resid_post` -> `L3 resid_post`, `hook_embed` -> `embed`."""
        part = ".".join(piece.removeprefix("hook_") for piece in self.part.split("."))
        return part if self.layer is None else f"L{self.layer} {part}"

    def __str__(self) -> str:
        return self.name


def after_blocks(hooks: Sequence[str]) -> list[str]:
    """Those names or patterns that are the residual stream after a block, or all where none is."""
    return [hook for hook in hooks if hook.endswith(f".{_PARTS[-1]}")] or list(hooks)


def spread(n_layers: int, n: int) -> list[HookPoint]:
    """The residual stream after n of the layers at even distances, the last one among them."""
    layers = dict.fromkeys(round(n_layers * (i + 1) / n) - 1 for i in range(n))
    return [HookPoint.within(layer, _PARTS[-1]) for layer in layers if layer >= 0]


def n_matches(pattern: str, n_layers: int) -> int:
    """How many blocks of `n_layers` have the hook point that a pattern names; 1 for a plain name."""
    if "*" not in pattern:
        return 1
    part = pattern.split(".", 2)[-1]
    return len(fnmatch.filter([f"blocks.{i}.{part}" for i in range(n_layers)], pattern))


def check_pattern(pattern: str, n_layers: int | None, model: str) -> None:
    """Raise UnknownHook for what no model of `n_layers` has, or what is a common name but for its underscores."""
    point = HookPoint.parse(pattern)
    part = pattern.split(".", 2)[-1] if point.layer is None and pattern.startswith("blocks.") else point.part
    near = next((p for p in _PARTS if p != part and p.replace("_", "") == part.replace("_", "").replace("-", "")), None)
    if near:
        raise UnknownHook(f"{model} has no hook point '{pattern}'. Did you mean '{pattern.removesuffix(part) + near}'?")
    if n_layers is None:
        return
    if point.layer is not None and point.layer >= n_layers:
        raise UnknownHook(unknown(pattern, [point.within(i, part).name for i in range(n_layers)], model))
    if not n_matches(pattern, n_layers):
        raise UnknownHook(f"{model} has no hook point '{pattern}': a pattern is `blocks.*.hook_resid_post` or alike.")


def expand(asked: str | Iterable[str], available: Sequence[str], model: str = "the model") -> list[HookPoint]:
    """Resolve names and patterns (`blocks.*.hook_resid_post`) against a model's hook points, in forward order.

    Raises UnknownHook when a name or pattern matches nothing.
    """
    found: set[str] = set()
    for pattern in [asked] if isinstance(asked, str) else asked:
        matches = fnmatch.filter(available, pattern)
        if not matches:
            raise UnknownHook(unknown(pattern, available, model))
        found.update(matches)
    return sorted(map(HookPoint.parse, found), key=lambda hook: hook.order)


def unknown(asked: str, available: Sequence[str], model: str) -> str:
    """That a model has no such hook point, with its number of layers or the nearest name."""
    layers = {hook.layer for hook in map(HookPoint.parse, available)} - {None}
    point = HookPoint.parse(asked)
    if point.layer is not None and layers and point.layer not in layers:
        return f"{model} has no hook point '{asked}': it has {len(layers)} layers (0-{len(layers) - 1})."
    near = nearest(asked, available)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"{model} has no hook point '{asked}'.{hint}"
