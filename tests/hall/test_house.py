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
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "manager", "util", "misc"}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = next(contract["layers"] for contract in CONTRACTS if contract["type"] == "layers")
WINGS = [name.strip() for line in LAYERS for name in line.split(":")]
NO_TORCH = next(contract["source_modules"] for contract in CONTRACTS if "no torch" in contract["name"])
PAGE_STANDS_ON = ("results", "storage", "records", "errors")
# A size that may be exceeded for a reason, and the comment that gives it, within what it excuses or on the line above.
LONGEST_FUNCTION, LONGEST_CLASS, REASON = 60, 250, re.compile(r"#\s*long: \w+")
# Places where a rule does not hold yet. What no longer breaks it must leave the list.
NOT_YET: dict[str, set[str]] = {
    "size": set(),
    "name": set(),
    "private": set(),
    "hook": set(),
    "joined": set(),
    "encoding": set(),
    "file": set(),
}
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


def test_a_vendor_is_imported_in_its_home_alone():
    """The homes are the contracts' of import-linter: here it is shown that each stands for a vendor that is used."""
    homes = {contract["forbidden_modules"][0]: contract for contract in CONTRACTS if "one vendor" in contract["name"]}
    assert set(homes) == {"transformer_lens", "plotly", "ray", "streamlit"}
    for vendor, contract in homes.items():
        allowed = [line.split(" -> ")[0].replace(".", "/") for line in
                   contract.get("ignore_imports", ())]  # fmt: skip
        users = [path for path in LIBRARY if vendor in {name.split(".")[0] for name in imports(tree(path))}]
        strangers = [where(path) for path in users if not any(path.match(f"{home}.py") for home in allowed)]
        assert strangers == [], vendor
        assert bool(users) == bool(allowed), vendor


def test_the_page_stands_on_results_and_run_folders():
    for path in PAGE:
        used = [name.split(".") for name in imports(tree(path))]
        assert not {parts[0] for parts in used} & {"torch", "transformer_lens", "transformers"}, path
        wings = {parts[1] for parts in used if parts[0] == "probekit" and len(parts) > 1}
        assert wings <= {*PAGE_STANDS_ON, *probekit.__all__, "__version__"}, path


# Sizes and names -----------------------------------------------------------------------------------------------------


def where(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def too_long(text: str) -> list[str]:
    """Functions and classes that are longer than a reader can hold, without a comment that says why.

    A docstring is read apart from the code, and does not count.
    """
    lines, found = text.splitlines(), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first, last = min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.end_lineno or 0
            most = LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION
            told = node.body[0]
            said = isinstance(told, ast.Expr) and isinstance(told.value, ast.Constant) and len(node.body) > 1
            words = (told.end_lineno or 0) - told.lineno + 1 if said else 0
            if last - node.lineno - words >= most and not any(map(REASON.search, lines[max(0, first - 2) : last])):
                found.append(node.name)
    return found


def test_what_is_too_long_is_found_and_may_give_a_reason():
    body = "    x = 1\n" * 60
    assert too_long(f"def f():\n{body}") == ["f"]
    assert too_long(f"def f():\n{body[:-10]}") == []
    assert too_long('def f():\n    """' + body + '    """\n    x = 1\n') == []
    assert too_long(f"class C:\n{body}") == []
    assert too_long(f"class C:\n{body * 5}") == ["C"]
    assert too_long(f"# long: a table\ndef f():\n{body}") == []
    assert too_long(f"# long:\ndef f():\n{body}") == ["f"]


def kept(rule: str, breaches: set[str]) -> None:
    """Nothing breaks a rule but what is listed, and nothing is listed that does not break it."""
    assert breaches - NOT_YET[rule] == set()
    assert NOT_YET[rule] - breaches == set(), "mended: take it off the list"


def test_functions_fit_a_screen_and_classes_a_few():
    files = [*LIBRARY, *PAGE]
    kept("size", {f"{where(path)}: {name}" for path in files for name in too_long(path.read_text(encoding="utf-8"))})


def test_a_public_name_belongs_to_one_class():
    """One word, one thing: a reader who meets the name need not ask which is meant."""
    homes: dict[str, list[str]] = {}
    for path in LIBRARY:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(where(path))
    kept("name", {name for name, found in homes.items() if len(found) > 1})


def private_imports(source: ast.Module) -> list[str]:
    """Names with a leading underscore that are taken from another module of the package."""
    return [
        f"{node.module}.{alias.name}"
        for node in ast.walk(source)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("probekit", "leakboard")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]


def test_what_is_private_stays_in_its_module():
    assert private_imports(ast.parse("from probekit.fit.mlp import _loss")) == ["probekit.fit.mlp._loss"]
    assert private_imports(ast.parse("from probekit import __version__")) == []
    files = [*LIBRARY, *PAGE]
    kept("private", {f"{where(path)}: {name}" for path in files for name in private_imports(tree(path))})


def takes_names_apart(source: ast.Module) -> list[str]:
    """Splits at a dot of what is called a hook, and hook names that are put together by hand."""
    found = []
    for node in ast.walk(source):
        if isinstance(node, ast.JoinedStr):
            first = node.values[0]
            if isinstance(first, ast.Constant) and str(first.value).startswith("blocks."):
                found.append(f"line {node.lineno}: f'blocks...'")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            text = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            if node.func.attr in ("startswith", "removeprefix") and text and str(text[0]).startswith("blocks"):
                found.append(f"line {node.lineno}: {node.func.attr}")
            if node.func.attr in ("split", "rsplit") and text[:1] == ["."] and "hook" in ast.unparse(node.func.value):
                found.append(f"line {node.lineno}: {node.func.attr}")
    return found


@pytest.mark.parametrize("code", ["hook.split('.')[1]", "f'blocks.{i}.hook_resid_post'", "name.startswith('blocks.')"])
def test_a_hook_name_taken_apart_is_found(code):
    assert takes_names_apart(ast.parse(code))


def test_hook_names_are_taken_apart_in_one_place():
    others = [path for path in [*LIBRARY, *PAGE] if path.stem != "hookpoint"]
    kept("hook", {where(path) for path in others if takes_names_apart(tree(path))})


def joined_keys(source: ast.Module) -> list[int]:
    """Lines where a name is taken apart at a bar, as keys that hold several values are."""
    apart = ("split", "rsplit", "partition", "rpartition")
    return [
        node.lineno
        for node in ast.walk(source)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in apart
        and [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)] == ["|"]
    ]  # fmt: skip


def test_no_key_holds_several_values():
    assert joined_keys(ast.parse("site, level = key.split('|')")) == [1]
    kept("joined", {where(path) for path in [*LIBRARY, *PAGE] if joined_keys(tree(path))})


def left_to_the_machine(source: ast.Module) -> list[int]:
    """Lines where text is read or written, or a program's output taken, in whatever encoding the machine prefers."""
    found = []
    for node in ast.walk(source):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name, said = dotted(node.func), [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        method = node.func.attr if isinstance(node.func, ast.Attribute) else name
        mode = next(
            (str(k.value.value) for k in node.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)),
            next((word for word in said if isinstance(word, str) and re.fullmatch("[rwaxbt+]{1,3}", word)), ""),
        )
        opens = name == "open" or (method == "open" and (bool(mode) or not node.args))
        text = any(k.arg in ("text", "universal_newlines") for k in node.keywords) and name.startswith("subprocess.")
        if text or method in ("read_text", "write_text", "TextIOWrapper") or (opens and "b" not in mode):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("code", ["p.read_text()", "p.write_text(x)", "open(p)", "open(p, 'w')", "p.open()",
                                  "p.open('a')", "p.open(mode='w')", "subprocess.run(a, text=True)"])  # fmt: skip
def test_an_encoding_that_is_left_to_the_machine_is_found(code):
    assert left_to_the_machine(ast.parse(code)) == [1]


def test_text_is_utf8_whatever_the_machine_prefers():
    for code in ("p.read_text(encoding='utf-8')", "open(p, 'rb')", "p.open('wb')", "os.open(p, os.O_RDONLY)",
                 "RunWriter.open(root, name)", "p.read_bytes()"):  # fmt: skip
        assert left_to_the_machine(ast.parse(code)) == []
    files = [*LIBRARY, *PAGE]
    kept("encoding", {f"{where(path)}: {line}" for path in files for line in left_to_the_machine(tree(path))})


# The house as a whole ------------------------------------------------------------------------------------------------


def test_the_wings_are_those_of_the_picture():
    rooms = {path.stem for path in (ROOT / "probekit").glob("*.py") if path.stem != "__init__"}
    wings = {path.parent.name for path in (ROOT / "probekit").glob("*/__init__.py")}
    assert rooms | wings == set(WINGS)


def test_tests_mirror_the_wings():
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    wings = {path.parent.name for path in (ROOT / "probekit").glob("*/__init__.py")}
    assert folders == wings | {"apps", "docs", "hall"}
    assert not list((ROOT / "tests").glob("test_*.py"))


def named_files(text: str) -> set[str]:
    """Files that a page points to: links within the repository, and paths in code quotes."""
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    quoted = re.findall(r"`((?:probekit|docs|tests|apps)/[\w./-]+\.\w+)`", text)
    return {*links, *quoted}


def test_pages_point_to_files_that_are_there():
    assert named_files("[a](docs/a.md) `tests/b.py` [c](https://d.e) `x.toml`") == {"docs/a.md", "tests/b.py"}
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    lost = {f"{where(page)}: {name}" for page in pages for name in named_files(page.read_text(encoding="utf-8"))
            if not (ROOT / name).exists() and not (page.parent / name).exists()}  # fmt: skip
    kept("file", lost)


# Importing -----------------------------------------------------------------------------------------------------------


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


def test_the_reading_side_opens_without_torch():
    """What the contract names, in one new interpreter: import-linter sees no import that is made by other means."""
    rooms = [room for room in NO_TORCH if not (ROOT / room.replace(".", "/")).is_dir()]
    wings = [room for room in NO_TORCH if room not in rooms]
    files = [path for wing in wings for path in (ROOT / wing.replace(".", "/")).glob("*.py")]
    inside = [where(path)[:-3].replace("/", ".") for path in files if path.stem != "__init__"]
    assert len(rooms) >= 10 and len(inside) >= 20
    code = f"import sys, importlib\nfor name in {rooms + inside}: importlib.import_module(name)\n"
    assert fresh(code + "print([m for m in ('torch', 'transformer_lens') if m in sys.modules])") == "[]"


def test_every_public_name_resolves():
    assert set(probekit._HOME) == set(probekit.__all__)
    assert set(probekit.__all__) <= set(dir(probekit))
    for name, room in probekit._HOME.items():
        value = getattr(probekit, name)
        at_home = getattr(import_module(f"probekit.{room}"), name)
        assert value is at_home and getattr(value, "__module__", "probekit.").startswith("probekit."), name


def test_every_exception_is_public():
    from probekit import errors

    raised = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert raised <= set(probekit.__all__)
    assert all(name in (errors.__doc__ or "") for name in raised)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = probekit.nonsense  # pyright: ignore[reportAttributeAccessIssue]


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


def test_warnings_are_errors_and_markers_are_declared(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import warnings, pytest\ndef test_warns():\n    warnings.warn('x')\n"
        "@pytest.mark.xfail\ndef test_passes_by_surprise():\n    pass\n"
    )
    (tmp_path / "test_marked.py").write_text("import pytest\n@pytest.mark.nonsense\ndef test_it():\n    pass\n")
    options = ["-p", "no:cacheprovider", "-q", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, str(tmp_path)], capture_output=True, text=True,
                          cwd=ROOT)  # fmt: skip
    assert "'nonsense' not found in `markers`" in done.stdout
    done = subprocess.run([sys.executable, "-m", "pytest", *options, str(tmp_path / "test_it.py")], capture_output=True,
                          text=True, cwd=ROOT)  # fmt: skip
    assert "2 failed" in done.stdout, done.stdout


def test_ignored_folders_hold_no_results():
    kept = subprocess.run(["git", "ls-files", "cached_activations"], capture_output=True, text=True, cwd=ROOT)
    if kept.returncode == 0:
        assert set(kept.stdout.split()) <= {"cached_activations/.gitignore", "cached_activations/README.md"}
