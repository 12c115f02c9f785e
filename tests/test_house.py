"""The rules of the house, read off the source: layers, lazy imports, no pickle, small files, docstrings."""

import ast
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("fedmm", "fedmm_cli", "tools")
LONGEST = 400
LONGEST_FUNCTION = 60  # no function has so many lines

# Lowest first. A module imports from layers below its own and from its own package, never from above or beside.
LAYERS = (
    ("errors",),
    ("utils",),
    ("config",),
    ("kernels",),
    ("encoders",),
    ("drawing", "tracking", "data"),
    ("models", "study"),
    ("privacy",),
    ("federation",),
    ("engines", "evaluation"),
    ("experiment",),
    ("recommendation", "audit"),
    ("portable",),
    ("runs",),
    ("comparison",),
    ("verification",),
    ("report",),
    ("tuning",),
    ("serving", "deployment"),
    ("testing",),
    ("api",),
    ("fedmm_cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# Each heavy package has its place; elsewhere nobody may name it.
HOMES = {
    "mlflow": r"fedmm/(tracking/\w+|portable/pyfunc_script)\.py",
    "optuna": r"fedmm/tuning/\w+\.py",
    "ray": r"fedmm/engines/ray_workers\.py",
    "flwr": r"fedmm/deployment/flower\.py",
    "filelock": r"fedmm/utils/locks\.py",
    "matplotlib": r"fedmm/(\w+/\w*figures\w*|drawing/panels)\.py",
}
WITH_ITS_HOME = {"optuna"}  # all of fedmm.tuning needs it, and is itself loaded late
HEAVY = ("torch", "mlflow", "optuna", "matplotlib", "pandas", "pyarrow", "scipy", "transformers", "PIL")
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports_of(path: Path) -> tuple[tuple[str, bool], ...]:
    """Full names of modules (or of what is taken from them), and whether they load with the file itself."""
    return tuple(_imports(path, tree_of(path)))


def _imports(path: Path, tree: ast.Module) -> Iterator[tuple[str, bool]]:
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    late = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # among the tools alone, which run as ``python -m tools.results`` and are imported by tests
                assert name_of(path).startswith("tools/"), f"{name_of(path)} imports relatively"
                continue
            yield from ((f"{node.module}.{alias.name}", node not in late) for alias in node.names)


def part_of(module: str) -> str | None:
    """``fedmm.data.types.Ragged`` -> ``data``; None outside the project and for ``fedmm`` itself."""
    first, _, rest = module.partition(".")
    if first == "fedmm_cli":
        return first
    own = rest.partition(".")[0]
    known = (ROOT / "fedmm" / own).is_dir() or (ROOT / "fedmm" / f"{own}.py").is_file()
    return own if first == "fedmm" and own and known else None


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", sources("fedmm", "fedmm_cli"), ids=name_of)
def test_imports_point_downwards(path):
    part = part_of(module_of(path))
    for module, _ in imports_of(path):
        other = part_of(module)
        if part is None or other is None or part == other:
            continue
        assert LEVEL[other] < LEVEL[part], f"{part} imports {module}"


def test_every_module_has_its_layer():
    parts = {part_of(module_of(path)) for path in sources("fedmm", "fedmm_cli")} - {None}
    assert parts == LEVEL.keys()


def test_contributing_has_the_same_layers():
    text = " < ".join(", ".join(names) for names in LAYERS)
    contributing = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    assert text in contributing


def test_few_modules_stand_in_the_root():
    assert {path.name for path in (ROOT / "fedmm").glob("*.py")} <= {
        "__init__.py",
        "api.py",
        "errors.py",
        "experiment.py",
    }


def test_no_module_imports_itself_by_a_detour():
    modules = {module_of(path): path for path in sources("fedmm", "fedmm_cli")}
    edges = {}
    for own, path in modules.items():
        named = {m for name, _ in imports_of(path) for m in (name, name.rpartition(".")[0]) if m in modules}
        edges[own] = named - {own, "fedmm"}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for other in sorted(edges[module]):
                visit(other, (*trail, module))
            done.add(module)

    for module in modules:
        visit(module, ())


@pytest.mark.parametrize("package", sorted(HOMES))
def test_each_heavy_package_has_one_home_and_loads_late(package):
    for path in sources(*CODE):
        for module, at_once in imports_of(path):
            if module.partition(".")[0] == package:
                assert re.fullmatch(HOMES[package], name_of(path)), f"{name_of(path)} imports {module}"
                assert not at_once or package in WITH_ITS_HOME, f"{name_of(path)} imports {module} when it loads"


def test_files_are_locked_in_one_place():
    users = {name_of(path) for path in sources(*CODE) for module, _ in imports_of(path) if module.startswith("fcntl")}
    assert users == set()


@pytest.mark.parametrize(
    ("what", "home"),
    [
        (r"MlflowClient\(", "fedmm/tracking/mlflow_client.py"),
        (r"def (holm|.*bonferroni)\(", "fedmm/utils/statistics.py"),
        (r"def _?flatten\(", "fedmm/utils/trees.py"),
        (r"import difflib|get_close_matches|\bDid you mean \{", "fedmm/config/names.py"),
        (r'"sgd": torch\.optim', "fedmm/federation/optimizers.py"),
    ],
)
def test_what_several_need_has_one_home(what, home):
    found = {name_of(path) for path in sources(*CODE) if re.search(what, path.read_text(encoding="utf-8"))}
    assert found == {home}


def test_pages_are_escaped_in_one_way():
    ways = r"\bhtml\.escape|saxutils"
    assert [name_of(path) for path in sources(*CODE) if re.search(ways, path.read_text(encoding="utf-8"))] == []


def test_what_optuna_keeps_private_is_touched_in_one_place():
    names = r"system_attrs|\._(storage|study_id|trial_id|thread_local|get_trials|get_bracket_id)\b|optuna[\w.]*\._\w"
    found = {name_of(path) for path in sources(*CODE) if re.search(names, path.read_text(encoding="utf-8"))}
    assert {name for name in found if name.startswith("fedmm/tuning/")} == {"fedmm/tuning/optuna_internals.py"}


def test_nobody_loads_the_home_of_optuna_by_loading():
    for path in sources(*CODE):
        if not name_of(path).startswith("fedmm/tuning/"):
            assert not any(at_once and module.startswith("fedmm.tuning") for module, at_once in imports_of(path))


@pytest.mark.parametrize("module", ["fedmm_cli.app", "fedmm.config", "fedmm.config.load", "fedmm.errors"])
def test_the_command_line_starts_without_heavy_packages(module):
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & set(HEAVY)


@functools.cache
def calls_of(path: Path) -> tuple[tuple[str, dict[str, str]], ...]:
    """Each call's dotted name and its keywords, as written."""
    return tuple(
        (ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg})
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
    )


@pytest.mark.parametrize("path", sources(*CODE), ids=name_of)
def test_nothing_is_pickled(path):
    named = {module.partition(".")[0] for module, _ in imports_of(path)}
    assert not named & PICKLES
    for function, keywords in calls_of(path):
        if function.endswith("torch.load"):
            assert keywords.get("weights_only") == "True"
        assert keywords.get("allow_pickle", "False") == "False"
        assert not function.endswith(("torch.save", "read_pickle", "to_pickle"))


@pytest.mark.parametrize("path", sources("fedmm", "fedmm_cli"), ids=name_of)
def test_randomness_comes_from_named_streams(path):
    """No global generators, neither drawn from nor seeded, and none made in passing."""
    legacy = r"(np|numpy)\.random\.(?!Generator$|PCG64$)\w+|random\.\w+|torch\.(manual_seed|seed|set_rng_state)"
    for function, _ in calls_of(path):
        assert not re.fullmatch(legacy, function), function


def test_files_stay_small():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*CODE, "tests")}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_functions_stay_short():
    lengths = {
        f"{name_of(path)}:{node.name}": node.end_lineno - node.lineno + 1
        for path in sources(*CODE)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length >= LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", sources("fedmm", "fedmm_cli"), ids=name_of)
def test_modules_and_what_they_offer_are_documented(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), "the module"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def project_texts() -> Iterator[Path]:
    yield from sources(*CODE, "tests")
    for pattern in ("*.md", "*.toml", "*.txt", "*.py", ".ci/*", "studies/**/*", "docs/**/*", "fedmm/**/*.md"):
        yield from (
            path for path in ROOT.glob(pattern) if path.is_file() and path.suffix not in (".png", ".svg", ".pyc")
        )


def test_no_path_of_one_machine_is_written_down():
    words = [f"/{folder}/" for folder in ("work", "root", "Users", "mnt")] + [r"/home/\w", r"\." + "library"]
    found = re.compile("(?<![\\w.>])(" + "|".join(words) + ")")
    offences = {
        f"{name_of(path)}:{number}"
        for path in project_texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if path != Path(__file__) and found.search(line)
    }
    assert offences == set()


def test_there_is_nothing_left_to_do():
    notes = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b")
    assert [name_of(p) for p in sources(*CODE, "tests") if notes.search(p.read_text(encoding="utf-8"))] == []
