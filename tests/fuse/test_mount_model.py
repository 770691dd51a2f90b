"""Random file operations on a mount, against a dictionary: the file system as programs see it, and the store."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from mounting import errno_of
from worlds import Stage

from dvidfs.fuse import names

KEYS = st.sampled_from(
    [
        b"a",
        b"b",
        b"a b",
        b"x/y",
        b"..",
        b".",
        b".dvid",
        b"%41",
        b"100%",
        b"nul\0",
        b"\xff\xfe",
        "🙂".encode(),
        b"k" * 255,
    ]
)
DATA = st.one_of(st.binary(max_size=200), st.integers(0, 255).map(lambda b: bytes([b]) * 70_000))
OFFSETS = st.integers(0, 300)


@pytest.fixture(scope="module")
def stage(shared: Stage) -> Stage:
    return shared


class Files(RuleBasedStateMachine):
    """`files`: what the folder holds as this mount shows it; `opened`: (descriptor, key or None once it was unlinked)."""

    stage: Stage
    count = 0

    def __init__(self) -> None:
        super().__init__()
        Files.count += 1
        self.name = f"m{Files.count}"
        self.folder: Path = self.stage.leaf / self.name
        self.folder.mkdir()
        self.files: dict[bytes, bytearray] = {}
        self.opened: list[tuple[int, bytearray]] = []

    def path(self, key: bytes) -> bytes:
        return os.fsencode(self.folder) + b"/" + names.encode(key)

    @rule(key=KEYS, data=DATA)
    def write(self, key: bytes, data: bytes) -> None:
        with open(self.path(key), "wb") as f:
            f.write(data)
        self._content(key)[:] = data

    def _content(self, key: bytes) -> bytearray:
        return self.files.setdefault(key, bytearray())

    @rule(key=KEYS, data=DATA)
    def append(self, key: bytes, data: bytes) -> None:
        with open(self.path(key), "ab") as f:
            f.write(data)
        self._content(key).extend(data)

    @rule(key=KEYS, offset=OFFSETS, data=DATA)
    def overwrite(self, key: bytes, offset: int, data: bytes) -> None:
        if key not in self.files:
            assert errno_of(lambda: os.open(self.path(key), os.O_RDWR)) == errno.ENOENT
            return
        with open(self.path(key), "r+b") as f:
            f.seek(offset)
            f.write(data)
        put(self.files[key], offset, data)

    @rule(key=KEYS, size=OFFSETS)
    def truncate(self, key: bytes, size: int) -> None:
        if key not in self.files:
            assert errno_of(lambda: os.truncate(self.path(key), size)) == errno.ENOENT
            return
        os.truncate(self.path(key), size)
        cut(self.files[key], size)

    @rule(old=KEYS, new=KEYS)
    def rename(self, old: bytes, new: bytes) -> None:
        if old not in self.files:
            assert errno_of(lambda: os.rename(self.path(old), self.path(new))) == errno.ENOENT
            return
        os.rename(self.path(old), self.path(new))
        self.files[new] = self.files.pop(old)

    @rule(key=KEYS)
    def unlink(self, key: bytes) -> None:
        assert errno_of(lambda: os.unlink(self.path(key))) == (0 if key in self.files else errno.ENOENT)
        self.files.pop(key, None)

    @rule(key=KEYS)
    def open(self, key: bytes) -> None:
        if len(self.opened) < 4:
            self.opened.append((os.open(self.path(key), os.O_RDWR | os.O_CREAT), self._content(key)))

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 3), offset=OFFSETS, data=DATA)
    def write_open(self, which: int, offset: int, data: bytes) -> None:
        fd, content = self.opened[which % len(self.opened)]
        os.pwrite(fd, data, offset)
        put(content, offset, data)

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 3), size=OFFSETS)
    def truncate_open(self, which: int, size: int) -> None:
        fd, content = self.opened[which % len(self.opened)]
        os.ftruncate(fd, size)
        cut(content, size)

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 3))
    def read_open(self, which: int) -> None:
        fd, content = self.opened[which % len(self.opened)]
        assert os.pread(fd, 1 << 20, 0) == content
        assert os.fstat(fd).st_size == len(content)

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 3))
    def fsync(self, which: int) -> None:
        os.fsync(self.opened[which % len(self.opened)][0])

    @precondition(lambda self: self.opened)
    @rule(which=st.integers(0, 3))
    def close(self, which: int) -> None:
        fd, _ = self.opened.pop(which % len(self.opened))
        os.close(fd)

    @rule(key=KEYS)
    def read(self, key: bytes) -> None:
        if key not in self.files:
            assert errno_of(lambda: os.stat(self.path(key))) == errno.ENOENT
            return
        with open(self.path(key), "rb") as f:
            assert f.read() == self.files[key]
        assert os.stat(self.path(key)).st_size == len(self.files[key])

    @invariant()
    def listed(self) -> None:
        assert {names.decode(name) for name in os.listdir(os.fsencode(self.folder))} == set(self.files)

    def teardown(self) -> None:
        for fd, _ in self.opened:
            os.close(fd)
        for key, content in self.files.items():
            assert self.stage.value(key, name=self.name) == content
        for key in self.files:
            os.unlink(self.path(key))
        self.folder.rmdir()


def put(content: bytearray, offset: int, data: bytes) -> None:
    if data:
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data


def cut(content: bytearray, size: int) -> None:
    content.extend(bytes(max(0, size - len(content))))
    del content[size:]


def test_files_behave_like_files(stage: Stage):
    Files.stage = stage
    run_state_machine_as_test(
        Files,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
