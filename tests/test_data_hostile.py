"""Hostile files, of every kind of data set: one clear error that names the file, in bounded memory, by the command too.

What each reader does with files of its own is in test_data_arrays.py and test_data_images.py.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import memory
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from made_data import LITTLE, cifar_binary, cifar_pickled, idx, mnist, picture, png, png_header, refused, two_classes

from striate.cli import main
from striate.errors import DataError
from striate.training.data import open_data

AGAIN = "Copy or download it again."
MEND = "Mend or remove it, or leave out what is broken (--skip-broken, skip_broken=True)."
OUT = "Copy what is meant into the folder."
SIDE = 30_000


@pytest.fixture(scope="module")
def huge() -> bytes:
    """A whole, sound PNG of 30,000×30,000 black-and-white pixels: 14 kB, 113 MB as bits, 0.9 GB as bytes."""
    packer, row = zlib.compressobj(9), bytes(1 + SIDE // 8)
    pixels = b"".join(packer.compress(row * 1000) for _ in range(SIDE // 1000)) + packer.flush()
    return png(png_header(SIDE, SIDE, depth=1, kind=0), (b"IDAT", pixels))


# ------------------------------------------------------------------------------------------------- images of a data set


def test_a_whole_png_of_30000_by_30000_pixels_is_refused_or_left_out(tmp_path: Path, huge: bytes) -> None:
    folder = two_classes(tmp_path / "set")
    path = folder / "cat" / "huge.png"
    path.write_bytes(huge)
    text = f"an image of 1 to 67108864 pixels, got 30000×30000. path: {path}. {MEND}"
    refused(f"folder:{folder}", f"folder expects {text}")
    table = folder / "labels.csv"
    rows = [f"{label}/{index}.png,{label}" for label in ("cat", "dog") for index in range(3)]
    table.write_text("\n".join(["path,label", *rows, "cat/huge.png,cat"]))
    refused(f"csv:{table}", f"csv expects {text}")
    for spec in (f"folder:{folder}", f"csv:{table}"):
        with memory.at_most(LITTLE):
            data = open_data(spec, skip_broken=True)
        assert data.skipped == ("cat/huge.png",) and len(data) == 6


@pytest.mark.parametrize(
    ("name", "content", "expects"),
    [
        ("x.jpg", picture("PNG"), "a JPEG, by its name, got PNG"),
        ("x.jpeg", b"\xff\xd8\xff" + picture("PNG"), "a sound JPEG, got a file that ends in its header"),
        ("x.png", picture("WEBP"), "a PNG, by its name, got WebP"),
        ("x.png", b"GIF89a" + bytes(40), "a PNG, by its name, got GIF"),
        ("x.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a PNG, by its name, got none of BMP, JPEG, PNG, WebP"),
        ("x.png", png(png_header(2**31, 1), (b"IDAT", b"")), "an image of 1 to 67108864 pixels, got 2147483648×1"),
        ("x.txt", picture("PNG"), "an image (.png, .jpg, .jpeg, .webp, .bmp), got a file 'x.txt'"),
    ],
    ids=range(7),  # not the whole content
)
def test_a_file_that_is_not_what_its_name_says_is_refused_in_a_folder_and_in_a_table(
    tmp_path: Path, name: str, content: bytes, expects: str
) -> None:
    folder = two_classes(tmp_path / "set")
    path = folder / "dog" / name
    path.write_bytes(content)
    refused(f"folder:{folder}", f"folder expects {expects}. path: {path}. {MEND}")
    (folder / "t.csv").write_text(f"path,label\ncat/0.png,cat\ndog/{name},dog\n")
    refused(f"csv:{folder}/t.csv", f"csv expects {expects}. path: {path}. {MEND}")
    assert open_data(f"folder:{folder}", skip_broken=True).skipped == (f"dog/{name}",)


CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"gAMA", b"acTL", b"fcTL", b"eXIf")


@pytest.mark.filterwarnings("ignore")  # of Pillow, about odd chunks
@given(st.lists(st.tuples(st.sampled_from(CHUNKS), st.binary(max_size=40)), max_size=6), st.integers(0, 2))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_chunks_of_a_png_give_an_image_or_a_data_error(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]], heads: int
) -> None:
    folder = tmp_path / "set"
    if not folder.exists():
        two_classes(folder)
    content = png(*[png_header(4, 4)] * heads, *chunks, (b"IDAT", zlib.compress(bytes(52))))
    (folder / "cat" / "0.png").write_bytes(content)
    with contextlib.suppress(DataError):
        data = open_data(f"folder:{folder}")
        for part in data.parts.values():
            for index in range(len(part)):
                assert part.image(index).shape[0] == data.channels


# ---------------------------------------------------------------------------------------------------- tables of images


def test_a_table_that_names_a_link_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "set")
    (tmp_path / "outside.png").write_bytes(picture())
    link, table = folder / "cat" / "link.png", folder / "t.csv"
    table.write_text("path,label\ndog/0.png,dog\ncat/link.png,cat\n")
    for target in ("../../outside.png", "/etc/passwd", tmp_path / "missing"):
        link.symlink_to(target)
        refused(f"csv:{table}", f"csv expects paths that stay in {folder}, got one that leads out. path: {link}. {OUT}")
        link.unlink()
    (folder / "out").symlink_to(tmp_path)
    table.write_text("path,label\ndog/0.png,dog\nout/outside.png,cat\n")
    path = folder / "out" / "outside.png"
    refused(f"csv:{table}", f"csv expects paths that stay in {folder}, got one that leads out. path: {path}. {OUT}")


@given(st.one_of(st.text(max_size=80), st.text('",;\n\r\0/.\\catdogpng0', max_size=80)), st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_as_a_table_is_data_or_a_data_error(tmp_path: Path, text: str, headed: bool) -> None:
    if not (tmp_path / "cat").exists():
        two_classes(tmp_path)
    table = tmp_path / "t.csv"
    start = "path,label\ncat/0.png,cat\ncat/1.png,cat\n" if headed else ""
    table.write_bytes((start + text).encode("utf-8", "replace"))
    with contextlib.suppress(DataError):
        assert len(open_data(f"csv:{table}")) >= 2


# -------------------------------------------------------------------------------------------------------------- arrays


def test_files_of_more_than_a_data_set_may_have_are_refused_unread(tmp_path: Path) -> None:
    """They are sparse: they take no disk."""
    cifar_binary(tmp_path / "binary")
    path = tmp_path / "binary" / "data_batch_2.bin"
    os.truncate(path, 3073 * 700_000)
    refused(
        f"cifar10:{path.parent}",
        f"cifar10 expects at most 2147483648 bytes of images in one file, got 2151100000 in its header. path: {path}. "
        "Keep larger sets as a folder of images (folder:DIR).",
    )
    cifar_pickled(tmp_path / "pickled")
    path = tmp_path / "pickled" / "data_batch_2"
    os.truncate(path, 2**28 + 1)
    refused(
        f"cifar10:{path.parent}",
        f"cifar10 expects a file of at most 268435456 bytes, got 268435457 bytes. path: {path}. Check the path.",
    )


@given(st.binary(max_size=40), st.integers(0, 2), st.integers(-1, 1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_a_binary_cifar_are_records_or_a_data_error(
    tmp_path: Path, content: bytes, records: int, more: int
) -> None:
    if not (tmp_path / "test_batch.bin").exists():
        cifar_binary(tmp_path)
    whole = max(0, 3073 * records + more)
    (tmp_path / "data_batch_1.bin").write_bytes((content + bytes(3073 * 3))[:whole])
    with contextlib.suppress(DataError):
        assert len(open_data(f"cifar10:{tmp_path}").parts["train"]) == 8 + records and more == 0


def test_names_of_classes_are_not_read_from_outside_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("\n".join(map(str, range(10))))
    cifar_binary(tmp_path / "binary")
    cifar_pickled(tmp_path / "pickled")
    mnist(tmp_path / "emnist", prefix="emnist-letters-")
    (tmp_path / "pickled" / "batches.meta").unlink()
    for kind, path in (
        ("cifar10", tmp_path / "binary" / "batches.meta.txt"),
        ("cifar10", tmp_path / "pickled" / "batches.meta"),
        ("mnist", tmp_path / "emnist" / "emnist-letters-mapping.txt"),
    ):
        path.symlink_to(outside)
        text = f"paths that stay in {path.parent}, got one that leads out. path: {path}. {OUT}"
        refused(f"{kind}:{path.parent}", f"{kind} expects {text}")


def test_bombs_in_every_gzipped_file_of_an_mnist_are_left_at_what_the_header_says(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(2 * LITTLE), 1)
    mnist(tmp_path, packed=True)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        count = len(gzip.decompress(content)) - (16 if "images" in path.name else 8)
        path.write_bytes(content + bomb)
        refused(f"mnist:{tmp_path}", f"mnist expects {count} bytes behind its header, got more. path: {path}. {AGAIN}")
        path.write_bytes(bomb)
        axes = "3 axes" if "images" in path.name else "1 axis"
        text = f"an IDX file of unsigned bytes with {axes}, got one that begins with 00000000. path: {path}. {AGAIN}"
        refused(f"mnist:{tmp_path}", f"mnist expects {text}")
        path.write_bytes(content)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_in_a_gzipped_mnist_give_the_same_data_or_a_data_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    arrays = mnist(tmp_path, packed=True)
    path = tmp_path / data.draw(st.sampled_from(sorted(arrays)))
    path = path.with_name(f"{path.name}.gz")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        found = open_data(f"mnist:{tmp_path}")
        assert np.array_equal(found.parts["train"].images[:, 0], arrays["train-images-idx3-ubyte"])
        assert np.array_equal(found.parts["test"].labels, arrays["t10k-labels-idx1-ubyte"])


# ------------------------------------------------------------------------------------------------------- by the command


def hostile_folder(folder: Path) -> str:
    (two_classes(folder) / "cat" / "x.jpg").write_bytes(picture("PNG"))
    return f"folder:{folder}"


def hostile_table(folder: Path) -> str:
    (two_classes(folder) / "x.csv").write_text("path,label\n../../etc/passwd,cat\n")
    return f"csv:{folder}/x.csv"


def hostile_mnist(folder: Path) -> str:
    mnist(folder, packed=True, train_images_idx3_ubyte=idx(np.zeros((6, 3, 2), np.uint8)) + bytes(2**26))
    return f"mnist:{folder}"


def hostile_cifar(folder: Path) -> str:
    cifar_pickled(folder)
    (folder / "test_batch").write_bytes(b"cposix\nsystem\n(S'touch /tmp/x'\ntR.")
    return f"cifar10:{folder}"


def hostile_cifar_100(folder: Path) -> str:
    cifar_binary(folder, label_bytes=2)
    os.truncate(folder / "train.bin", 3074 * 2 - 1)
    return f"cifar100:{folder}"


def hostile_npz(folder: Path) -> str:
    folder.mkdir()
    with zipfile.ZipFile(folder / "x.npz", "w") as file:
        file.writestr("../../../../tmp/evil.npy", b"")
    return f"npz:{folder}/x.npz"


@pytest.mark.parametrize(
    "make", [hostile_folder, hostile_table, hostile_mnist, hostile_cifar, hostile_cifar_100, hostile_npz]
)
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["", "json"])
def test_the_command_refuses_a_hostile_file_in_one_line_that_names_it(
    tmp_path: Path, make: Callable[[Path], str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    spec = make(folder)
    with memory.at_most(LITTLE):
        assert main(["data", spec, *options]) == 2
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1 and printed.out == ""
    assert lines[0].startswith(f"striate: {spec.partition(':')[0]} expects ") and f" path: {folder}/" in lines[0]
