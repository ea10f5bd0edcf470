"""What holds every test: functions of the package refuse what their annotations do not allow."""

import numpy as np
import pytest
from jaxtyping import Float32, TypeCheckError, jaxtyped
from numpy.typing import NDArray

from probekit.metrics import auroc
from typecheck import checked


@jaxtyped(typechecker=checked)
def doubled(x: Float32[np.ndarray, "n d"], y: Float32[np.ndarray, " n"], how: str) -> Float32[np.ndarray, "n d"]:
    if how == "wide":
        return x.astype(np.float64)
    return x[:, :1] if how == "narrow" else 2 * x


@jaxtyped(typechecker=checked)
def words(n: float) -> NDArray[np.str_]:
    return np.array(["a" * int(n)])


def test_arguments_and_results_are_checked_at_the_first_call_and_at_each_later_one():
    x, y = np.ones((3, 2), np.float32), np.ones(3, np.float32)
    for _ in range(2):
        for how in ("wide", "narrow"):
            with pytest.raises(TypeCheckError, match="return value"):
                doubled(x, y, how)
        for wrong in ((x, np.ones(4, np.float32), ""), (x.astype(np.float64), y, ""), (x, y, 3)):
            with pytest.raises(TypeCheckError, match="parameters"):
                doubled(*wrong)
        assert np.array_equal(doubled(x, y, "as it is"), 2 * x)


def test_two_things_are_allowed():
    assert words(3)[0] == "aaa"


def test_the_package_is_checked():
    with pytest.raises(TypeCheckError, match="parameters"):
        auroc.auroc_interval("scores", np.ones(3), None)  # pyright: ignore[reportArgumentType]
