from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from rpz_auth_server import files


@pytest.fixture(autouse=True)
def _no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a123_file_is_private_unless_said_otherwise(tmp_path: Path) -> None:
    files.create(tmp_path / "a", b"1")
    files.replace(tmp_path / "b", b"2")
    files.replace(tmp_path / "c", b"3", mode=files.PUBLIC)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "abc"] == [0o600, 0o600, 0o644]
    assert [(tmp_path / name).read_bytes() for name in "abc"] == [b"1", b"2", b"3"]
    assert names(tmp_path) == ["a", "b", "c"]


def test_file_that_is_written_piece_by_piece_appears_at_the_end_or_never(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with files.creating(path) as file:
        file.write(b"1")
        assert not path.exists()
        file.write(b"2")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"12", 0o600)

    def fail(name: str) -> None:
        with files.creating(tmp_path / name) as file:
            file.write(b"3")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail("b")
    with pytest.raises(FileExistsError), files.creating(path) as file:
        file.write(b"4")
    assert (names(tmp_path), path.read_bytes()) == (["a"], b"12")


def test_of_many_creators_exactly_one_succeeds(tmp_path: Path) -> None:
    together = Barrier(8)

    def create(number: int) -> int:
        together.wait()
        try:
            files.create(tmp_path / "a", b"%d" % number)
        except FileExistsError:
            return 0
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(1, 9)) if number]
    assert len(winners) == 1
    assert (tmp_path / "a").read_bytes() == b"%d" % winners[0]
    assert names(tmp_path) == ["a"]


def test_replacing_takes_on_the_new_mode(tmp_path: Path) -> None:
    files.replace(tmp_path / "a", b"1", mode=files.PUBLIC)
    files.replace(tmp_path / "a", b"2")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    assert (tmp_path / "a").read_bytes() == b"2"


@pytest.mark.parametrize("write", [files.create, files.replace])
def test_failure_leaves_nothing_behind(tmp_path: Path, write: Callable[[Path, bytes], None]) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="a"):
        write(tmp_path / "a", b"1")
    assert names(tmp_path) == ["a"]
