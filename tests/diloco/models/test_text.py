"""Text: a deterministic split by file name, batches that a seed decides, and one line for bad paths."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch

from diloco.errors import TextError
from diloco.models.text import Text, load_documents, load_text


def folder_of(root: Path, num_files: int) -> Path:
    for i in range(num_files):
        (root / f"sub{i % 3}").mkdir(exist_ok=True)
        (root / f"sub{i % 3}" / f"{i}.txt").write_text(f"file {i}.\n", encoding="utf-8")
    return root


def content(part: torch.Tensor) -> str:
    return bytes(part.tolist()).decode()


def test_the_standard_library_is_large_enough_and_about_5_percent_is_held_out() -> None:
    text = load_text()
    total = len(text.train) + len(text.validation)
    assert total > 5e6
    assert 0.005 < len(text.validation) / total < 0.2
    assert text.train.dtype == torch.uint8


def test_each_file_is_on_one_side_and_the_split_depends_on_names_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = load_text(folder_of(tmp_path / "a", 200)), load_text(folder_of(tmp_path / "b", 200))
    assert torch.equal(first.train, second.train)
    assert torch.equal(first.validation, second.validation)
    lines = content(first.train).splitlines() + content(first.validation).splitlines()
    assert sorted(lines) == sorted(f"file {i}." for i in range(200))
    assert 2 <= len(content(first.validation).splitlines()) <= 20


def test_hidden_files_links_and_binaries_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 100, encoding="utf-8")
    (tmp_path / ".hidden").write_text("secret", encoding="utf-8")
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    (tmp_path / "link").symlink_to(tmp_path / "a.txt")
    text = load_text(tmp_path)
    assert content(text.train) + content(text.validation) == "x" * 100


def test_of_a_single_file_the_end_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a" * 95 + "b" * 5, encoding="utf-8")
    text = load_text(path)
    assert (content(text.train), content(text.validation)) == ("a" * 95, "b" * 5)


def test_bad_paths_get_one_line(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="does not exist"):
        load_text(tmp_path / "missing")
    with pytest.raises(TextError, match="holds no text"):
        load_text(tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(TextError, match="holds no text"):
        load_text(tmp_path / "empty.txt")


def counting() -> Text:
    data = torch.arange(200, dtype=torch.uint8)
    return Text("counting", data, data[:20])


def test_targets_are_the_inputs_moved_by_one() -> None:
    x, y = next(counting().batches(0, "a", 4, 10))
    assert x.shape == y.shape == (4, 10)
    assert x.dtype == torch.int64
    assert torch.equal(y, x + 1)


def test_seed_and_salt_decide_the_batches() -> None:
    def draw(seed: int, salt: str) -> list[list[int]]:
        return [x.flatten().tolist() for x, _ in itertools.islice(counting().batches(seed, salt, 4, 10), 3)]

    assert draw(1, "a") == draw(1, "a")
    assert len({str(draw(seed, salt)) for seed in (1, 2) for salt in ("a", "b")}) == 4


def test_every_position_can_be_drawn() -> None:
    data = torch.arange(12, dtype=torch.uint8)
    starts = {int(x[0, 0]) for x, _ in itertools.islice(Text("", data, data).batches(0, "", 1, 10), 40)}
    assert starts == {0, 1}


def test_text_shorter_than_the_context_is_refused_at_once() -> None:
    with pytest.raises(TextError, match="20 bytes for validation: a context of 20 needs more"):
        counting().batches(0, "a", 4, 20, validation=True)


def test_documents_are_files_and_lines_with_a_text(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.jsonl").write_text('{"text": "first", "more": 1}\n\n{"text": "ä"}\n')
    (tmp_path / "picture").write_bytes(b"\0\1")
    assert load_documents(tmp_path) == ["first", "ä", "second"]
    assert load_documents(tmp_path / "b.txt") == ["second"]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", b'{"text": 1}', 'a.jsonl, line 1 is no object with a "text"'),
        ("a.jsonl", b'{"text": "x"}\n[1]', 'a.jsonl, line 2 is no object with a "text"'),
        ("a.jsonl", b"{", "a.jsonl, line 1 is no JSON"),
        ("a.txt", b"\xff\xfe", "a.txt is no text in UTF-8"),
        ("a", b"\0", "holds no text"),
        ("b/c", b"", "holds no text"),
    ],
)
def test_what_is_no_document_is_named(tmp_path: Path, name: str, content: bytes, line: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=re.escape(line)):
        load_documents(tmp_path)
    with pytest.raises(TextError, match="does not exist"):
        load_documents(tmp_path / "missing")
