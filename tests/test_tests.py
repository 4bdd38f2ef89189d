"""What is held of tests: each module has one that names it, and none reaches into what it tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.test_tidy import PACKAGES, dotted, files, imported_files, name_of, tree

OF_NO_MODULE = {"__init__.py", "__main__.py"}


def test_every_module_is_imported_by_a_test() -> None:
    tested = {each for path in files("tests") for each in imported_files(path)}
    modules = [path for path in files(*PACKAGES) if path.name not in OF_NO_MODULE]
    assert len(modules) > 100
    missing = [name_of(path) for path in modules if path not in tested]
    assert not missing, "\n".join(missing)


def private_names_in(path: Path) -> Iterator[str]:
    """Where a test reads, imports or patches a private name of another object. A subclass's own (``self``,
    ``super()``) are no other's."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            yield f"{name_of(path)}:{node.lineno} {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if is_private(alias.name):
                    yield f"{name_of(path)}:{node.lineno} imports {alias.name}"
        elif isinstance(node, ast.Call) and dotted(node.func).endswith(("setattr", "delattr", "getattr")):
            for each in node.args:
                if isinstance(each, ast.Constant) and is_private(str(each.value).rpartition(".")[2]):
                    yield f"{name_of(path)}:{node.lineno} {each.value} by name"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_own(node: ast.expr) -> bool:
    return dotted(node) in {"self", "cls"} or (isinstance(node, ast.Call) and dotted(node.func) == "super")


def test_no_test_reads_or_patches_private_names() -> None:
    found = [each for path in files("tests") for each in private_names_in(path)]
    assert not found, "\n".join(found)
