"""What is held of tests: each module has one that names it, and none reaches into what it tests."""

from __future__ import annotations

from tests.test_tidy import PACKAGES, files, imported_files, name_of

OF_NO_MODULE = {"__init__.py", "__main__.py"}


def test_every_module_is_imported_by_a_test() -> None:
    tested = {each for path in files("tests") for each in imported_files(path)}
    modules = [path for path in files(*PACKAGES) if path.name not in OF_NO_MODULE]
    assert len(modules) > 100
    missing = [name_of(path) for path in modules if path not in tested]
    assert not missing, "\n".join(missing)
