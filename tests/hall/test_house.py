"""The rules of the house, as small programs over the package's own source."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import probekit

ROOT = Path(__file__).parents[2]
LIBRARY = sorted((ROOT / "probekit").rglob("*.py"))
PAGE = sorted((ROOT / "apps").rglob("*.py"))
READING = (
    "tables",
    "figures",
    "report",
    "rundir",
    "records",
    "claims",
    "inference",
    "cache",
    "cli_reading",
    "cli_cache",
)
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "manager", "util", "misc"}
CODE_FROM_DATA = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "yaml.load", "eval", "exec", "pandas.read_pickle", "pd.read_pickle"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(node: ast.expr) -> str:
    """`torch.load` for the expression torch.load; empty for anything that is no plain dotted name."""
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return node.id if isinstance(node, ast.Name) else ""


def imports(node: ast.AST) -> list[str]:
    """Every module imported anywhere below `node`, inside functions too."""
    found = []
    for inner in ast.walk(node):
        if isinstance(inner, ast.Import):
            found += [alias.name for alias in inner.names]
        elif isinstance(inner, ast.ImportFrom) and inner.module:
            found += [inner.module, *(f"{inner.module}.{alias.name}" for alias in inner.names)]
    return found


def breaches(source: ast.Module, may_print: bool = False) -> list[str]:
    """What in a module's syntax breaks a rule, one line each."""
    found = [f"imports {name}" for name in imports(source) if name.split(".")[0] in CODE_FROM_DATA]
    for node in ast.walk(source):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                found.append(f"bare except, line {node.lineno}")
            elif all(isinstance(part, ast.Pass) for part in node.body) and dotted(node.type) in (
                "Exception", "BaseException"):  # fmt: skip
                found.append(f"swallows every exception, line {node.lineno}")
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in FORBIDDEN_CALLS or (name == "print" and not may_print):
            found.append(f"calls {name}, line {node.lineno}")
        for keyword in ("allow_pickle", "trust_remote_code", "shell"):
            value = keywords.get(keyword)
            if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                found.append(f"{keyword}, line {node.lineno}")
        if name in ("torch.manual_seed", "np.random.seed", "numpy.random.seed", "random.seed") and not forked(
            source, node
        ):
            found.append(f"seeds the global generator, line {node.lineno}")
    return found


def forked(source: ast.Module, call: ast.Call) -> bool:
    """Whether the call lies inside `with torch.random.fork_rng(...)`, which restores the generator."""
    return any(
        isinstance(node, ast.With)
        and any(isinstance(item.context_expr, ast.Call) and dotted(item.context_expr.func).endswith("fork_rng")
                for item in node.items)
        and any(inner is call for inner in ast.walk(node))
        for node in ast.walk(source)
    )  # fmt: skip


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import dump",
        "def f():\n    import dill",
        "torch.load('x')",
        "yaml.load(text)",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=flag)",
        "try:\n    f()\nexcept:\n    raise",
        "try:\n    f()\nexcept Exception:\n    pass",
        "print('x')",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "torch.manual_seed(0)",
    ],
)
def test_the_rules_can_be_broken(code):
    assert breaches(ast.parse(code))


def test_what_keeps_the_rules_passes():
    code = "np.load('x', allow_pickle=False)\nwith torch.random.fork_rng():\n    torch.manual_seed(0)\nmodel.eval()\n"
    assert breaches(ast.parse(code)) == []


@pytest.mark.parametrize("path", [*LIBRARY, *PAGE], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_the_rules(path):
    source = tree(path)
    assert breaches(source, may_print=path.name.startswith("cli")) == []
    assert path.stem not in FORBIDDEN_NAMES
    assert path.parent.name not in FORBIDDEN_NAMES


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_owns(path):
    docstring = ast.get_docstring(tree(path))
    assert docstring or not path.read_text(encoding="utf-8").strip()


@pytest.mark.parametrize(
    ("vendor", "homes"),
    [
        ("transformer_lens", {"model/__init__.py", "bench/peers.py"}),  # the bench times its readers as a peer's
        ("plotly", {"figures.py"}),
        ("streamlit", set()),
    ],
)
def test_one_vendor_lives_in_one_file(vendor, homes):
    users = [path for path in LIBRARY if any(name.split(".")[0] == vendor for name in imports(tree(path)))]
    assert {path.relative_to(ROOT / "probekit").as_posix() for path in users} <= homes


def test_the_page_reads_records_only():
    for path in PAGE:
        used = {name.split(".")[0] for name in imports(tree(path))}
        assert not used & {"torch", "transformer_lens", "transformers"}, path
        rooms = {name.split(".")[1] for name in imports(tree(path)) if name.startswith("probekit.")}
        assert not rooms & {"model", "store", "capture", "runner", "fit", "metrics"}, path


def fresh(code: str) -> str:
    """Output of a new interpreter: what this process has imported does not count."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return done.stdout.strip()


HEAVY = "[m for m in ('torch', 'pandas', 'numpy', 'transformer_lens', 'pydantic', 'plotly') if m in sys.modules]"


def test_importing_the_package_loads_nothing():
    assert fresh(f"import sys, probekit; print({HEAVY})") == "[]"


def test_a_light_name_does_not_load_torch():
    assert fresh(f"import sys, probekit; probekit.Record, probekit.BadInput; print({HEAVY})") == "[]"
    found = fresh("import sys; from probekit import JobSpec, Task, Level, HookPoint; print('torch' in sys.modules)")
    assert found == "False"


def there(room: str) -> bool:
    return (ROOT / "probekit" / f"{room}.py").exists() or (ROOT / "probekit" / room).is_dir()


@pytest.mark.parametrize("room", [room for room in READING if there(room)])
def test_the_reading_side_opens_without_torch(room):
    code = f"import sys, probekit.{room}; print([m for m in ('torch', 'transformer_lens') if m in sys.modules])"
    assert fresh(code) == "[]"


def test_every_public_name_resolves():
    assert set(probekit._HOME) == set(probekit.__all__)
    assert set(probekit.__all__) <= set(dir(probekit))
    for name, room in probekit._HOME.items():
        if there(room) and (room != "testbeds" or there("cli")):
            value = getattr(probekit, name)
            at_home = getattr(import_module(f"probekit.{room}"), name)
            assert value is at_home and getattr(value, "__module__", "probekit.").startswith("probekit."), name
        else:
            assert not there("cli"), f"{name}: the command line is written last, and {room} is not there yet"


def test_every_exception_is_public():
    from probekit import errors

    raised = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert raised <= set(probekit.__all__)
    assert all(name in (errors.__doc__ or "") for name in raised)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = probekit.nonsense  # pyright: ignore[reportAttributeAccessIssue]


def test_a_submodule_does_not_hide_the_function_of_its_name():
    code = """
import importlib, sys, types, probekit
stand_in = types.ModuleType("probekit.capture")
stand_in.capture = len
sys.modules["probekit.capture"] = stand_in
probekit.capture = stand_in  # what the import system does after importing a submodule
print(probekit.capture is len)
"""
    assert fresh(code) == "True"


def test_the_version_is_the_project_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert probekit.__version__ == project["version"]


def test_every_requirement_has_a_pin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for name, lines in extras.items() if name != "all" for line in lines)]
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line
            name, version = line.split("==")
            pins[re.sub(r"[-_.]+", "-", name).lower()] = version
    from packaging.requirements import Requirement

    for line in asked:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[re.sub(r"[-_.]+", "-", requirement.name).lower()], prereleases=True)


def test_every_marker_but_the_declared_ones_is_refused(pytestconfig):
    assert pytestconfig.getini("xfail_strict")
    assert pytestconfig.getini("filterwarnings")[0] == "error"


def test_ignored_folders_hold_no_results():
    kept = subprocess.run(["git", "ls-files", "cached_activations"], capture_output=True, text=True, cwd=ROOT)
    if kept.returncode == 0:
        assert set(kept.stdout.split()) <= {"cached_activations/.gitignore", "cached_activations/README.md"}
