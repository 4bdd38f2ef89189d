"""What a checkpoint's ``manifest.json`` says: which state of which run its files hold, and how to check them.

Pure: text in, text out, no torch. A manifest is written last, so whoever finds one finds all the files that
it names; it carries a checksum of its own, and the size and digest of each file. It holds no secret (X7).
Another format than today's is refused by its number.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from diloco.errors import CheckpointError
from peers.protocol.fields import MAX_FRAGMENTS
from peers.protocol.held import Held
from peers.protocol.record import record_in
from transport.errors import BadFrame

FORMAT = 7
FILE_NAME = "manifest.json"
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_FileName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(\.[a-z0-9]+)+$", max_length=64)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileEntry(_Part):
    """A file beside the manifest."""

    name: _FileName
    size_bytes: int = Field(ge=0)
    digest: _Digest


class FragmentEntry(_Part):
    """One fragment of the shared state."""

    version: _Digest
    """The record that moved it last, or the head that the run began with."""
    digest: _Digest
    """Names its state, as all members told the coordinator; of a replica, as its worker did."""
    serial: int = Field(ge=0)
    """Of the last record that moved it; 0 if that is not known."""
    count: int = Field(ge=0)
    """Outer steps."""
    vectors: tuple[str, ...]
    """What its state is made of, in this order, each of the fragment's length."""
    projection: int = Field(ge=0)
    """Values of the projection's state behind them."""


class TensorEntry(_Part):
    """One parameter of the model."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    fragment: int = Field(ge=-1)
    """-1: it is frozen."""
    digest: _Digest | None = None
    """Of the bytes of a frozen one that no file holds: it is the base model's."""


class OwnEntry(_Part):
    """What the worker that wrote the checkpoint keeps of its own."""

    step: int = Field(ge=0)
    tokens: int = Field(ge=0)


class Manifest(_Part):
    """One checkpoint."""

    format: int = FORMAT
    written_by: str
    """The version of this program."""
    written_at: float
    """Unix seconds, by the clock of the machine that wrote it."""
    run: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    settings: str
    """The run's settings as the host gives them to who joins."""
    replica: bool = False
    """It is of a run that gossips: one worker's replica, and others have other ones."""
    stage: int = Field(default=0, ge=0)
    """Of the run's model, whose parameters these are."""
    stages: int = Field(default=1, ge=1)
    """How many the model is cut into."""
    index: int = Field(ge=0)
    """Of the head's record; of a replica, its outer steps."""
    head: _Digest
    """Of a replica, the first state of its run."""
    record: str = ""
    """The head's record, packed, in hex; empty if it is not known."""
    fragments: tuple[FragmentEntry, ...] = Field(min_length=1, max_length=MAX_FRAGMENTS)
    buffers: int = Field(default=-1, ge=-1)
    """Which fragment is of the model's buffers; -1 if none is."""
    tensors: tuple[TensorEntry, ...]
    own: OwnEntry | None
    files: tuple[FileEntry, ...]
    previous: _Digest | None
    """SHA-256 of the manifest that was the newest before."""

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(each.size_bytes for each in self.files)

    @property
    def here(self) -> frozenset[int]:
        """Fragments whose files are beside it: of a state that workers share out not all."""
        names = {each.name for each in self.files}
        return frozenset(f for f in range(len(self.fragments)) if fragment_file(f) in names)

    @property
    def trained(self) -> tuple[FragmentEntry, ...]:
        """Fragments of what is trained."""
        return self.fragments if self.buffers < 0 else self.fragments[: self.buffers]

    @property
    def has_mean_buffers(self) -> bool:
        """Buffers were averaged: else those of the state are as the run began with them."""
        return self.buffers >= 0 and self.fragments[self.buffers].count > 0

    @property
    def is_whole(self) -> bool:
        return len(self.here) == len(self.fragments)

    def require_stage(self, stage: int, stages: int, path: str) -> None:
        """Raises `CheckpointError` if it is not of that stage of so many."""
        if (self.stage, self.stages) != (stage, stages):
            raise CheckpointError(
                f"{path} is of stage {self.stage} of {self.stages}, and this worker trains stage {stage} of"
                f" {stages}: give it another folder"
            )

    def require_whole(self, path: str) -> None:
        """Raises `CheckpointError` for a share of a state, which says what is missing."""
        if not self.is_whole:
            every, here = range(len(self.fragments)), sorted(self.here)
            missing = ", ".join(str(f) for f in every if f not in self.here)
            has = f"holds fragments {', '.join(map(str, here))}" if here else "holds no fragment"
            raise CheckpointError(
                f"{path} {has} of {len(every)}: {missing} are in other workers' folders of the same commit; "
                "diloco checkpoint gather puts them together"
            )

    @property
    def serial_floor(self) -> int:
        """No round with this serial or a lower one is to be committed after this checkpoint."""
        return min(each.serial for each in self.fragments)

    @property
    def named_only(self) -> dict[str, str]:
        """By name, the digests of frozen parameters that no file holds."""
        return {each.name: each.digest for each in self.tensors if each.digest is not None}

    @property
    def unit(self) -> str:
        """What the index counts."""
        return unit_of(gossips=self.replica)

    def held(self) -> Held:
        """What a member that loads it tells the coordinator that it holds."""
        return Held(
            head=bytes.fromhex(self.head),
            index=0 if self.replica else self.index,
            versions=tuple(bytes.fromhex(each.version) for each in self.fragments),
            digests=tuple(bytes.fromhex(each.digest) for each in self.fragments),
            record=bytes.fromhex(self.record),
            steps=self.index if self.replica else None,
        )

    def file(self, name: str) -> FileEntry:
        """A file by its name. Raises `CheckpointError` if it is not listed."""
        for each in self.files:
            if each.name == name:
                return each
        raise CheckpointError(f"the checkpoint lists no file {name}")

    def to_bytes(self) -> bytes:
        """The file's content."""
        fields = self.model_dump(mode="json")
        return json.dumps({"sha256": _checksum(fields), **fields}, indent=1).encode() + b"\n"

    def sha256(self) -> str:
        """Of the file's content: names this manifest in the next one."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Manifest:
        """Read it back; ``where`` is its place, for people. Raises `CheckpointError`."""
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError):
            raise CheckpointError(f"{where} is damaged: it is no JSON text") from None
        if not isinstance(fields, dict) or type(fields.get("format")) is not int:
            raise CheckpointError(f"{where} is no manifest of a checkpoint")
        if fields["format"] != FORMAT:
            age = "an older" if fields["format"] < FORMAT else "a newer"
            raise CheckpointError(
                f"{where} has format {fields['format']}, of {age} version of this program: {FORMAT} is read. "
                "The model that the other version's diloco export writes can be taken up with --from"
            )
        if fields.pop("sha256", None) != _checksum(fields):
            raise CheckpointError(f"{where} is damaged: its checksum is another one")
        try:
            found = cls.model_validate_json(json.dumps(fields))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise CheckpointError(f"{where} is not valid: {place}: {first['msg']}") from None
        try:
            if found.record:
                record_in(bytes.fromhex(found.record))
        except (BadFrame, ValueError) as error:
            raise CheckpointError(
                f"{where} has a record that this version of the program cannot read: {error}"
            ) from None
        return found


def unit_of(*, gossips: bool) -> str:
    """What counts how far a run's state is, for people."""
    return "outer step" if gossips else "commit"


def fragment_file(fragment: int) -> str:
    """The name of a fragment's file."""
    return f"outer.{fragment:03}.safetensors"


OWN_FILE = "own.safetensors"


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
