"""The type checker that runs inside every function of the package while tests run: beartype, with two allowances."""

from collections.abc import Callable
from typing import Any

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from numpy.typing import NDArray

_strict = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # an int where a float is asked for
        # The width is part of a text array's type: no array is ever an instance of NDArray[str_] as beartype compares.
        hint_overrides=FrozenDict({NDArray[np.str_]: np.ndarray}),
    )
)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its checks, which are written when it is called first.

    jaxtyping asks for two of each function of the package, some 7,000, and a run of one file calls a tenth of them:
    to write all when they are imported took ten seconds of processor of every start.
    """
    made: list[Callable[..., Any]] = []

    def first_writes(*args: Any, **kwargs: Any) -> Any:
        if not made:
            made.append(_strict(function))
        return made[0](*args, **kwargs)

    return first_writes
