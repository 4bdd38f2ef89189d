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

GROUND = (
    "transport/{limits,effects,errors,keys,counters,frames,digests,addresses}"
    " transport/{redial,guarded,in_order,log_limit,disk,floods,yielding}"
)
CARRIED = f"{GROUND} transport/link transport/collectives"
SAID = f"{CARRIED} peers/errors peers/protocol"
PEERS = f"{SAID} peers/{{admission,coordinator,routing,member,absence,links,seats,node}}"
PLAIN = "diloco/errors diloco/extras diloco/units diloco/terminal"
SET_UP = f"{PLAIN} diloco/methods diloco/settings diloco/rules"
SIMULATED = (
    f"{SET_UP} diloco/loop diloco/compression diloco/outer diloco/models diloco/recipe diloco/pipeline"
    " diloco/simulation"
)

ARROWS = {
    "transport/*": GROUND,
    "transport/link": GROUND,
    "transport/collectives": GROUND,
    "transport/sealed": GROUND,
    "transport/sockets": f"{GROUND} transport/sealed",
    "transport/simnet": GROUND,
    "peers/errors": "",
    "peers/protocol": CARRIED,
    "peers/admission": SAID,
    "peers/coordinator": SAID,
    "peers/routing": SAID,
    "peers/member": f"{SAID} peers/routing",
    "peers/absence": "",
    "peers/links": f"{SAID} peers/absence peers/member",
    "peers/seats": f"{SAID} peers/admission peers/coordinator peers/routing",
    "peers/node": PEERS,
    "diloco/errors": "",
    "diloco/extras": "diloco/errors",
    "diloco/units": PLAIN,
    "diloco/terminal": PLAIN,
    "diloco/interrupts": "",
    "diloco/methods": f"{PLAIN} {GROUND}",
    "diloco/settings": f"{PLAIN} diloco/methods {GROUND}",
    "diloco/rules": f"{PLAIN} diloco/methods diloco/settings {PEERS}",
    "diloco/loop": f"{SET_UP} {SAID}",
    "diloco/compression": f"{PLAIN} diloco/methods",
    "diloco/outer": f"{PLAIN} diloco/methods diloco/compression {CARRIED}",
    "diloco/checkpoints": f"{SET_UP} diloco/compression diloco/outer {SAID}",
    "diloco/swarm": f"{SET_UP} {PEERS} transport/sockets",
    "diloco/training": f"{SET_UP} diloco/loop diloco/compression diloco/outer diloco/checkpoints diloco/swarm"
    f" diloco/interrupts {PEERS}",
    "diloco/pipeline": f"{SET_UP} diloco/compression diloco/outer diloco/checkpoints diloco/swarm"
    f" diloco/training {SAID} peers/routing",
    "diloco/integrations": f"{SET_UP} diloco/outer diloco/models diloco/recipe diloco/swarm diloco/training",
    "diloco/models": f"{PLAIN} diloco/methods diloco/settings",
    "diloco/recipe": f"{PLAIN} diloco/methods diloco/settings diloco/models diloco/pipeline",
    "diloco/simulation": f"{SIMULATED} {PEERS} transport/simnet",
    "diloco/planning": f"{SIMULATED} diloco/pipeline {PEERS} transport/simnet",
    "diloco/comparison": f"{SIMULATED} {PEERS} transport/simnet",
    "diloco/monitoring": f"{SET_UP} {SAID}",
    "diloco/__init__": f"{SET_UP} diloco/swarm diloco/training diloco/pipeline diloco/simulation",
    "diloco/__main__": "diloco/cli",
    "diloco/cli": "*",
}
"""By room (a folder, or a file that stands beside the folders of its package): the rooms whose files it may
import, its own apart. ``{a,b}`` abbreviates, ``package/*`` is every file that has no line of its own."""
ONLY_IN = {"zmq": "transport/sockets/libzmq.py", "msgpack": "transport/frames.py"}
SHELLS = {
    "transport/sockets/libzmq.py",
    "transport/sockets/driver.py",
    "transport/sockets/arrivals.py",
    "transport/sockets/bulk_buffers.py",
    "transport/sockets/bulk_door.py",
    "transport/sockets/bulk_threads.py",
    "transport/sockets/callbacks.py",
    "transport/sockets/descriptors.py",
    "transport/sockets/forks.py",
    "transport/sockets/kernel.py",
    "transport/sockets/mailbox.py",
    "transport/sockets/names.py",
    "transport/sockets/probes.py",
    "transport/sockets/sealed_connection.py",
    "transport/sockets/sealed_lanes.py",
    "transport/sockets/syn_filter.py",
    "transport/sockets/upload_gate.py",
    "peers/admission/identity.py",
    "peers/coordinator/journal_file.py",
    "peers/coordinator/truncation.py",
}
"""The files below `diloco` that may touch the world; all others there are cores."""
NO_TORCH = (
    *("transport", "peers", "diloco/methods", "diloco/loop", "diloco/swarm", "diloco/planning"),
    *(f"diloco/pipeline/{name}.py" for name in ("cuts", "microbatch", "stage_loop")),
)
NOT_IN_CORES = {"time", "threading", "socket", "asyncio", "os", "logging", "select", "subprocess"}
IMPORT_BY_NAME = {
    "diloco/methods/registry.py": "its rows name classes of rooms above it, imported when one is made",
    "diloco/recipe.py": "a recipe that is not built in is a module that is known only when the run starts",
}
"""The files that may import a module by a string, which no test here sees, and why each must."""
BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
BANNED_CALLS = {"eval", "exec", "torch.load", "yaml.load", "os.system"}
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All of a tree: to walk it anew in each test would be most of what this file takes."""
    return list(ast.walk(tree(path)))


def files(*names: str) -> list[Path]:
    """The modules in these folders, and those that are named themselves."""
    places = [ROOT / name for name in names]
    return sorted(path for place in places for path in ([place] if place.suffix else place.rglob("*.py")))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def cores() -> list[Path]:
    return [path for path in files("transport", "peers") if name_of(path) not in SHELLS]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level module of every import, also those inside functions."""
    for node in nodes(path):
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


def run_with_the_file(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a file is imported, however deep in `if`, `try`, `with` or a class: all but the insides
    of functions and of `if TYPE_CHECKING`, which never run then."""
    yield node
    types_only = isinstance(node, ast.If) and dotted(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
    for each in node.orelse if types_only else ast.iter_child_nodes(node):
        if not isinstance(each, FunctionNode):
            yield from run_with_the_file(each)


@cache
def names_imported_with(path: Path) -> list[tuple[int, str]]:
    """Line and dotted name of all that a file imports when it is imported."""
    found: list[tuple[int, str]] = []
    for node in run_with_the_file(tree(path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


@cache
def files_imported_with(path: Path) -> set[Path]:
    """The files of ours that are imported with a file: packages on the way to a module included."""
    parts = [name.split(".") for _, name in names_imported_with(path)]
    found = {module_file(".".join(each[:end])) for each in parts for end in range(1, len(each) + 1)}
    return {each for each in found if each is not None}


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
        for node in nodes(path)
        if isinstance(node, ast.Name | ast.Attribute) and dotted(node) in names
    ]


def functions(path: Path) -> list[FunctionNode]:
    return [node for node in nodes(path) if isinstance(node, FunctionNode)]


def public_functions(body: list[ast.stmt]) -> Iterator[tuple[FunctionNode, bool]]:
    """Functions of a module and methods of its public classes, and whether the first parameter is bound."""
    for node in body:
        if isinstance(node, FunctionNode) and not node.name.startswith("_"):
            yield node, False
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method, _ in public_functions(node.body):
                static = any(dotted(each) == "staticmethod" for each in method.decorator_list)
                yield method, not static


def module_file(dotted_name: str) -> Path | None:
    """The file of a module or package of ours."""
    path = ROOT / dotted_name.replace(".", "/")
    for found in (path.with_suffix(".py"), path / "__init__.py"):
        if found.is_file() and dotted_name.partition(".")[0] in PACKAGES:
            return found
    return None


@cache
def imported_files(path: Path) -> frozenset[Path]:
    """The files of ours that a file imports: inside functions and under `TYPE_CHECKING` too."""
    found: set[Path | None] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {module_file(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            home = module_file(node.module)
            found |= {module_file(f"{node.module}.{alias.name}") or home for alias in node.names}
    return frozenset(each for each in found if each is not None)


def room(path: Path) -> str:
    """The folder of a file, or the file itself if it stands beside the folders of its package."""
    package, *inner = name_of(path).removesuffix(".py").split("/")
    return f"{package}/{inner[0]}" if inner else package


def rooms_in(text: str) -> set[str]:
    """The rooms that a line of `ARROWS` names."""
    found: set[str] = set()
    for word in text.split():
        before, _, rest = word.partition("{")
        found |= {before + each for each in rest.rstrip("}").split(",")}
    return found


def allowed(name: str) -> set[str]:
    return rooms_in(ARROWS.get(name) or ARROWS.get(f"{name.partition('/')[0]}/*", ""))


def test_every_room_imports_only_rooms_below_it() -> None:
    found = []
    for path in files(*PACKAGES):
        here = room(path)
        if ARROWS.get(here) == "*":
            continue
        for other in imported_files(path):
            if room(other) not in {here, *allowed(here)}:
                found.append(f"{name_of(path)} imports {name_of(other)}")
    assert not found, "\n".join(sorted(found))


def test_every_room_has_a_line_in_the_table() -> None:
    rooms = {room(path) for path in files(*PACKAGES)} - {"transport/__init__", "peers/__init__"}
    ground = rooms_in(GROUND)
    assert rooms - ground == set(ARROWS) - {"transport/*"}
    assert all(rooms_in(line) <= rooms for line in ARROWS.values() if line != "*")


def test_no_import_is_relative() -> None:
    """The tests of arrows read absolute names only."""
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in files(*PACKAGES)
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert not found, "\n".join(found)


def test_modules_are_imported_by_a_string_where_a_reason_is_given_only() -> None:
    """A string hides an arrow from the table."""
    by_name = {"import_module", "__import__"}
    found = {
        name_of(path)
        for path in files(*PACKAGES)
        for node in nodes(path)
        if (isinstance(node, ast.Name) and node.id in by_name)
        or (isinstance(node, ast.Attribute) and node.attr in by_name)
        or (isinstance(node, ast.alias) and node.name in by_name)
    }
    assert found == set(IMPORT_BY_NAME)


def test_no_files_import_each_other_in_a_circle() -> None:
    """Whatever is imported: inside functions and under `TYPE_CHECKING` too, by a package's own file too."""

    def reached(path: Path, seen: set[Path]) -> set[Path]:
        for each in imported_files(path) - seen:
            seen.add(each)
            reached(each, seen)
        return seen

    reach = {path: reached(path, set()) for path in files(*PACKAGES)}
    circles = {
        tuple(name_of(other) for other in sorted(reach[path]) if path in reach[other])
        for path in reach
        if path in reach[path]
    }
    assert not circles, "\n".join("a circle among " + ", ".join(each) for each in sorted(circles))


def test_nothing_below_the_command_line_reaches_torch_where_it_must_not() -> None:
    """Also through others. What a function imports when it is called is not counted, and here alone (for what
    counts is what runs) neither is what stands under `TYPE_CHECKING`."""

    def at_import(path: Path, seen: set[Path]) -> set[Path]:
        for each in files_imported_with(path):
            if each not in seen:
                seen.add(each)
                at_import(each, seen)
        return seen

    found = []
    for path in files(*NO_TORCH):
        for each in {path, *at_import(path, set())}:
            found += [
                f"{name_of(path)}: {name_of(each)}:{line} imports {name}"
                for line, name in names_imported_with(each)
                if name.split(".")[0] == "torch"
            ]
    assert not found, "\n".join(sorted(found))


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
        for node in nodes(path):
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
        for node in nodes(path):
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
        for node in nodes(path)
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
        for node in nodes(path)
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
    """They are found by name: a folder without `__init__.py` would be left out."""
    folders = {path.parent for path in files(*PACKAGES)}
    missing = [name_of(folder) for folder in folders if not (folder / "__init__.py").exists()]
    assert not missing, f"no __init__.py in {missing}"
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["packages"]["find"]["include"] == [f"{package}*" for package in PACKAGES]
    assert setuptools["package-data"]["*"] == ["py.typed"]
    assert all((ROOT / package / "py.typed").is_file() for package in PACKAGES)
