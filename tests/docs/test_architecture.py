"""ARCHITECTURE.md names every room of every wing once, wings in the order of imports."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "probekit"
WINGS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


def named(page: str) -> dict[str, list[str]]:
    """Wing -> rooms, in the order of the page's table."""
    found: dict[str, list[str]] = {}
    for wing, several in re.findall(r"^\| (?:\*\*(\w+)\*\*|(`[^|]+`)) \|", page, re.M):
        if wing:
            found[wing] = []
        else:
            found[list(found)[-1]] += re.findall(r"`([\w/]+)`", several)
    return found


def rooms(folder: Path) -> list[str]:
    files = [path.stem for path in folder.glob("*.py") if path.name != "__init__.py"]
    return files + [f"{path.name}/" for path in folder.iterdir() if (path / "__init__.py").exists()]


PAGE = named((ROOT / "ARCHITECTURE.md").read_text())


@pytest.mark.parametrize("wing", WINGS)
def test_every_room_is_named_once(wing):
    assert sorted(PAGE.get(wing, [])) == sorted(rooms(PACKAGE / wing)), f"rooms of {wing} in ARCHITECTURE.md"


def test_the_hall_is_named_too():
    assert sorted(PAGE["hall"]) == sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def test_wings_stand_in_the_order_of_imports():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers")
    assert [*PAGE][:-1] == [layer for layer in layers if layer in WINGS]
    assert [*PAGE][-1] == "hall"


def test_functions_of_the_walk_exist():
    walk = (ROOT / "ARCHITECTURE.md").read_text().split("## One walk")[1].split("## ")[0]
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for name in re.findall(r"`([A-Za-z_]+(?:\.[a-z_]+)?)`", walk):
        last = name.split(".")[-1]
        assert re.search(rf"\b(def|class) {last}\b", source), name


def test_a_room_that_is_missing_is_found():
    assert named("| **fit** | x |\n| `frame` | y |\n| `simple/` | z |\n") == {"fit": ["frame", "simple/"]}
