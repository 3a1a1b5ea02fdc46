"""Files are written whole or not at all, and an error names the file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from striate import files
from striate.files import write_atomically
from striate.render.png import write_png

FULL = os.strerror(errno.ENOSPC)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["größer\nals 0\n", "größer\nals 0\n".encode()], ids=["text", "bytes"])
def test_text_and_bytes_are_written_as_they_are(tmp_path: Path, content: str | bytes) -> None:
    write_atomically(str(tmp_path / "page.html"), content)
    assert (tmp_path / "page.html").read_bytes() == "größer\nals 0\n".encode()
    assert names(tmp_path) == ["page.html"]


def test_an_existing_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("a longer old page")
    path.chmod(0o640)
    write_atomically(path, "new")
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["page.html"]


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    write_atomically(tmp_path / "page.html", "")
    assert (tmp_path / "page.html").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("old", ["old", None])
def test_a_full_disk_leaves_nothing_half_written_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, old: str | None
) -> None:
    path = tmp_path / "page.html"
    if old is not None:
        path.write_text(old)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, FULL)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, full)
        with pytest.raises(OSError) as error:
            write_atomically(path, "new")
    assert str(error.value) == f"[Errno {errno.ENOSPC}] {FULL}: '{path}'"
    assert names(tmp_path) == ([] if old is None else ["page.html"])
    assert old is None or path.read_text() == old


def test_a_figure_that_does_not_fit_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, path = pytest.importorskip("matplotlib.figure").Figure((1, 1)), tmp_path / "map.png"
    write_png(figure, path, 10)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, FULL)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as error:
        write_png(figure, path, 20)
    assert str(error.value) == f"[Errno {errno.ENOSPC}] {FULL}: '{path}'"
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["map.png"]


def test_a_write_that_stops_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    """Runs in a separate process, whose files are limited to 4 KiB: the first 4 KiB do get written."""
    path = tmp_path / "page.html"
    path.write_text("old")
    code = f"""
import resource, signal
from striate.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_atomically({str(path)!r}, "x" * 100_000)
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{path}'\n"
    assert names(tmp_path) == ["page.html"] and path.read_text() == "old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, stop)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, "new")
    assert names(tmp_path) == ["page.html"] and path.read_text() == "old"


def test_a_missing_folder_and_a_folder_in_the_files_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        write_atomically(tmp_path / "no" / "page.html", "")
    assert str(error.value) == f"[Errno 2] No such file or directory: '{tmp_path}/no/page.html'"
    with pytest.raises(IsADirectoryError) as error:
        write_atomically(tmp_path, "")
    assert str(error.value) == f"[Errno 21] Is a directory: '{tmp_path}'"
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("protected", ["the folder", "the file"])
def test_what_may_not_be_written_is_named_and_stays(tmp_path: Path, protected: str) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    changed = tmp_path if protected == "the folder" else path
    changed.chmod(0o555)
    try:
        with pytest.raises(PermissionError) as error:
            write_atomically(path, "new")
    finally:
        changed.chmod(0o755)
    assert str(error.value) == f"[Errno 13] Permission denied: '{path}'"
    assert names(tmp_path) == ["page.html"] and path.read_text() == "old"


def test_an_error_of_permission_is_named_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", refuse)
        with pytest.raises(PermissionError) as error:
            write_atomically(path, "new")
    assert str(error.value) == f"[Errno 13] Permission denied: '{path}'"
    assert names(tmp_path) == ["page.html"] and path.read_text() == "old"


def test_a_symbolic_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


def test_a_pipe_and_the_standard_output_are_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_atomically(tmp_path / "pipe", "text")
    reader.join()
    assert got == [b"text"] and (tmp_path / "pipe").is_fifo()

    code = "from striate.files import write_atomically; write_atomically('/dev/stdout', 'text')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"text"
    with (tmp_path / "out").open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert (tmp_path / "out").read_bytes() == b"text"


def test_a_full_device_is_named() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError) as error:
        write_atomically("/dev/full", "text")
    assert str(error.value) == f"[Errno {errno.ENOSPC}] {FULL}: '/dev/full'"
