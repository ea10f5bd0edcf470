"""Plain: the same weights under the library's own forward, with its fast attention and hooks on its own modules.

TransformerLens names a place by a hook point that stands before or after one module of the library's model, for most
names. Those are found here by the identity of that module, so that no architecture is listed; the others have no place.
"""

import contextlib
import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

Place = tuple[str, Literal["in", "out"]]


class Plain:
    """Shares every weight with `hf`; to be made before `hf` is bridged, which replaces its modules and its attention.

    places: hook point -> the module's path in the library's model, and whether its first input or its output is meant.
    """

    def __init__(self, hf: Any) -> None:
        self.hf = copy.deepcopy(hf, {id(t): t for t in (*hf.parameters(), *hf.buffers())})
        with contextlib.suppress(ValueError):  # Gemma 2, say, whose soft cap it lacks, has an eager forward only
            self.hf.set_attn_implementation("sdpa")
        self._paths = {id(module): path for path, module in hf.named_modules()}
        self.places: dict[str, Place] = {}
        self.writes: Any = None  # the `generation.Manner` that was found by trial

    @property
    def attention(self) -> str:
        return str(self.hf.config._attn_implementation)

    def locate(self, bridge: Any, points: Mapping[str, Any]) -> None:
        """Find the places of `points` (name -> hook point) now that the model has been bridged."""
        sides: dict[int, Place] = {}
        for module in bridge.modules():
            path = self._paths.get(id(getattr(module, "original_component", None)))
            if path is not None:
                sides[id(getattr(module, "hook_in", None))] = (path, "in")
                sides[id(getattr(module, "hook_out", None))] = (path, "out")
        self.places = {name: sides[id(point)] for name, point in points.items() if id(point) in sides}

    def attach(self, name: str, function: Callable[[Any], object]) -> Any:
        """Call `function` with the activation at `name` in every forward until the handle's `remove`."""
        path, side = self.places[name]
        module = self.hf.get_submodule(path)
        if side == "in":

            def before(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
                function(args[0] if args else kwargs.get("hidden_states"))

            return module.register_forward_pre_hook(before, with_kwargs=True)

        def after(module: torch.nn.Module, args: tuple, output: Any) -> None:
            function(output[0] if isinstance(output, tuple) else output)

        return module.register_forward_hook(after)
