"""Style as an executable test: which module may import what, what no module may do, and how large things get.

Everything is read from the syntax trees, so that the whole file takes about a second.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("transport", "peers", "diloco")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70

ARROWS = {
    "transport": {"peers", "diloco", "torch"},
    "peers": {"diloco", "torch"},
}
ONLY_IN = {"zmq": "transport/sockets.py", "msgpack": "transport/frames.py"}
SHELLS = {"transport/sockets.py", "transport/driver.py", "peers/identity.py", "peers/journal.py"}
"""The files below `diloco` that may touch the world; all others there are cores."""
NOT_IN_CORES = {"time", "threading", "socket", "asyncio", "os", "logging", "select", "subprocess"}
BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
BANNED_CALLS = {"eval", "exec", "torch.load", "yaml.load", "os.system"}
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def cores() -> list[Path]:
    return [path for path in files("transport", "peers") if name_of(path) not in SHELLS]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level module of every import, also those inside functions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


def importing(paths: list[Path], modules: set[str]) -> list[str]:
    return [
        f"{name_of(path)}:{line} imports {module}"
        for path in paths
        for line, module in imports(path)
        if module in modules
    ]


def dotted(node: ast.expr) -> str:
    """ "a.b.c" for a chain of names, else nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (head := dotted(node.value)):
        return f"{head}.{node.attr}"
    return ""


def using(path: Path, names: set[str]) -> list[str]:
    """Where a file mentions one of the dotted names."""
    return [
        f"{name_of(path)}:{node.lineno} uses {dotted(node)}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name | ast.Attribute) and dotted(node) in names
    ]


def functions(path: Path) -> list[FunctionNode]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, FunctionNode)]


def public_functions(body: list[ast.stmt]) -> Iterator[tuple[FunctionNode, bool]]:
    """Functions of a module and methods of its public classes, and whether the first parameter is bound."""
    for node in body:
        if isinstance(node, FunctionNode) and not node.name.startswith("_"):
            yield node, False
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method, _ in public_functions(node.body):
                static = any(dotted(each) == "staticmethod" for each in method.decorator_list)
                yield method, not static


def test_imports_go_down_only() -> None:
    found = [each for package, banned in ARROWS.items() for each in importing(files(package), banned)]
    assert not found, "\n".join(found)


def test_zmq_and_msgpack_are_each_imported_in_one_file() -> None:
    found = []
    for module, home in ONLY_IN.items():
        found += importing([path for path in files(*PACKAGES) if name_of(path) != home], {module})
    assert not found, "\n".join(found)


def test_importing_diloco_imports_no_torch() -> None:
    check = "import sys, diloco; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_cores_have_no_clock_no_threads_and_no_io() -> None:
    found = importing(cores(), NOT_IN_CORES)
    found += [each for path in cores() for each in using(path, {"open", "print", "input"})]
    assert not found, "\n".join(found)


def test_cores_draw_from_seeded_generators_only() -> None:
    found = []
    for path in cores():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and node.module == "random":
                wrong = [alias.name for alias in node.names if alias.name != "Random"]
            elif isinstance(node, ast.Attribute) and dotted(node.value) in {"random", "np.random"}:
                wrong = [] if node.attr in {"Random", "Generator"} else [dotted(node)]
            else:
                continue
            found += [f"{name_of(path)}:{node.lineno} draws from the global {name}" for name in wrong]
    assert not found, "\n".join(found)


def test_nothing_runs_code_or_objects_that_came_as_data() -> None:
    everywhere = files(*PACKAGES, "scripts", "examples")
    found = importing(everywhere, BANNED_MODULES)
    for path in everywhere:
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            if dotted(node.func) in BANNED_CALLS:
                found.append(f"{name_of(path)}:{node.lineno} calls {dotted(node.func)}")
            found += [
                f"{name_of(path)}:{node.lineno} passes shell=True"
                for keyword in node.keywords
                if keyword.arg == "shell"
            ]
    assert not found, "\n".join(found)


def test_nothing_imports_a_star() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in files(*PACKAGES, "scripts", "examples", "tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert not found, "\n".join(found)


def test_no_package_is_configured_by_the_environment() -> None:
    found = [
        each for path in files(*PACKAGES) for each in using(path, {"os.environ", "os.getenv", "environ"})
    ]
    assert not found, "\n".join(found)


def test_no_exception_is_swallowed() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in files(*PACKAGES, "scripts", "examples")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or dotted(node.type) in {"Exception", "BaseException"})
        and all(isinstance(each, ast.Pass | ast.Continue) for each in node.body)
    ]
    assert not found, "\n".join(found)


def test_every_module_says_what_it_owns() -> None:
    modules = [path for path in files(*PACKAGES, "scripts", "examples", "tests") if tree(path).body]
    found = [name_of(path) for path in modules if not ast.get_docstring(tree(path))]
    assert not found, "\n".join(found)


def test_files_and_functions_stay_small() -> None:
    found = []
    for path in files(*PACKAGES, "scripts", "examples"):
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        if num_lines > MAX_FILE_LINES:
            found.append(f"{name_of(path)} has {num_lines} lines")
        for node in functions(path):
            assert node.end_lineno is not None
            num_lines = node.end_lineno - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                found.append(f"{name_of(path)}:{node.lineno} {node.name} has {num_lines} lines")
    assert not found, "\n".join(found)


def test_public_functions_are_annotated() -> None:
    found = []
    for path in files(*PACKAGES):
        for node, bound in public_functions(tree(path).body):
            named = [*node.args.posonlyargs, *node.args.args][int(bound) :]
            named += [*node.args.kwonlyargs, *filter(None, (node.args.vararg, node.args.kwarg))]
            if node.returns is None or any(each.annotation is None for each in named):
                found.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert not found, "\n".join(found)


def test_tests_have_no_clock_outside_the_net_folder() -> None:
    paths = [path for path in files("tests") if not name_of(path).startswith("tests/net/")]
    found = importing(paths, {"time"})
    assert not found, "\n".join(found)


def test_every_package_folder_is_packaged() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name_of(path.parent).replace("/", ".") for path in files(*PACKAGES)}
    assert folders <= set(listed), f"not in pyproject.toml: {sorted(folders - set(listed))}"
