"""What is held of tests: each module has one that names it, and none reaches into what it tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.test_tidy import PACKAGES, dotted, files, imported_files, name_of, tree

OF_NO_MODULE = {"__init__.py", "__main__.py"}


def test_every_module_is_imported_by_a_test() -> None:
    tested = {each for path in files("tests") for each in imported_files(path)}
    modules = [path for path in files(*PACKAGES) if path.name not in OF_NO_MODULE]
    assert len(modules) > 100
    missing = [name_of(path) for path in modules if path not in tested]
    assert not missing, "\n".join(missing)


BY_NAME = ("setattr", "setattr__", "delattr", "getattr", "attrgetter", "patch", ".object", ".multiple")
"""How the calls end that are given names of attributes as strings."""


def private_names_in(node: ast.AST, in_class: bool = False) -> Iterator[tuple[int, str]]:
    """Line and text where a test reads, imports or patches a private name of another object. What a class
    takes from ``self``, ``cls`` or ``super()`` is its own or its base's; outside of classes any object may be
    called so."""
    if isinstance(node, ast.Attribute) and is_private(node.attr) and not (in_class and is_own(node.value)):
        yield node.lineno, ast.unparse(node)
    elif isinstance(node, ast.ImportFrom):
        yield from ((node.lineno, f"imports {each.name}") for each in node.names if is_private(each.name))
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(BY_NAME):
        given = [*node.args, *(each.value for each in node.keywords)]
        texts = [str(each.value) for each in given if isinstance(each, ast.Constant)]
        texts += [each.arg for each in node.keywords if each.arg]  # the attributes of patch.multiple
        for text in texts:
            if is_private(text.rpartition(".")[2]):
                yield node.lineno, f"{text} by name"
    for each in ast.iter_child_nodes(node):
        yield from private_names_in(each, in_class or isinstance(node, ast.ClassDef))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_own(node: ast.expr) -> bool:
    return dotted(node) in {"self", "cls"} or (isinstance(node, ast.Call) and dotted(node.func) == "super")


def test_no_test_reads_or_patches_private_names() -> None:
    found = [
        f"{name_of(path)}:{line} {text}"
        for path in files("tests")
        for line, text in private_names_in(tree(path))
    ]
    assert not found, "\n".join(found)
