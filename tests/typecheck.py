"""The type checker that runs inside every function of the package while tests run: beartype, with two allowances."""

import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from numpy.typing import NDArray

checked = beartype(
    conf=BeartypeConf(
        is_pep484_tower=True,  # an int where a float is asked for
        # The width is part of a text array's type: no array is ever an instance of NDArray[str_] as beartype compares.
        hint_overrides=FrozenDict({NDArray[np.str_]: np.ndarray}),
    )
)
