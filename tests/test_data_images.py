"""Image files, folders of them and tables that name them: the right pixels, and one clear error for each hostile file.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import memory
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from made_data import LITTLE, picture, png, png_header, refused, two_classes
from PIL import Image, ImageFile

from striate.errors import DataError
from striate.training.data import Decoded, open_data
from striate.training.data.images import BrokenImage, decode, read_header

HEADER = "Write a first line path,label, then a line for each image."
MEND = "Mend or remove it, or leave out what is broken (--skip-broken, skip_broken=True)."


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def pixels(content: bytes, mode: str) -> torch.Tensor:
    """What Pillow makes of a file, by another road: (C, H, W)."""
    array = torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert(mode)))
    return array[None] if array.ndim == 2 else array.permute(2, 0, 1)


# -------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("kind", "suffix", "options"),
    [
        ("PNG", ".png", {}),
        ("JPEG", ".jpg", {}),
        ("JPEG", ".JPEG", {"progressive": True}),
        ("WEBP", ".webp", {"lossless": True}),
        ("WEBP", ".webp", {}),
        ("BMP", ".bmp", {}),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_each_format_is_read_exactly(tmp_path: Path, kind: str, suffix: str, options: Any, mode: str) -> None:
    content = picture(kind, mode, (7, 5), **options)
    path = written(tmp_path / f"x{suffix}", content)
    header = read_header("folder", path)
    is_grey = mode == "L" and kind != "WEBP"  # WebP has no grey
    assert (header.height, header.width, header.channels) == (5, 7, 1 if is_grey else 3)
    assert torch.equal(decode("folder", path, 3), pixels(content, "RGB"))
    assert torch.equal(decode("folder", path, 1), pixels(content, "L"))


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "x.png")
    assert read_header("folder", tmp_path / "x.png").channels == 3
    assert decode("folder", tmp_path / "x.png", 3).tolist() == [[[10, 40]], [[20, 50]], [[30, 60]]]


def test_of_16_bits_the_upper_eight_are_kept(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 65535, 0x8000]], np.uint16)).save(tmp_path / "grey.png")
    assert read_header("folder", tmp_path / "grey.png").channels == 1
    assert decode("folder", tmp_path / "grey.png", 1).tolist() == [[[0, 0, 1, 255, 128]]]
    rows = b"\0" + struct.pack(">6H", 0x1234, 0xFF00, 0x00FF, 0xABCD, 1, 0x8000)
    content = png(png_header(2, 1, depth=16), (b"IDAT", zlib.compress(rows)))
    assert decode("folder", written(tmp_path / "x.png", content), 3).tolist() == [
        [[0x12, 0xAB]],
        [[0xFF, 0]],
        [[0, 0x80]],
    ]


def test_black_and_white_is_0_and_255(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False, True]])).save(tmp_path / "x.png")
    assert decode("folder", tmp_path / "x.png", 1).tolist() == [[[255, 0, 255]]]


def test_what_is_transparent_is_laid_over_white(tmp_path: Path) -> None:
    colours = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "x.png")
    assert decode("folder", tmp_path / "x.png", 3).tolist() == [[[10, 255, 204]], [[20, 255, 204]], [[30, 255, 204]]]
    Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA").save(tmp_path / "grey.png")
    assert read_header("folder", tmp_path / "grey.png").channels == 1
    assert decode("folder", tmp_path / "grey.png", 1).tolist() == [[[10, 255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=1)
    assert decode("folder", tmp_path / "palette.png", 3).tolist() == [[[10, 255]], [[20, 255]], [[30, 255]]]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_image_is_turned_as_its_orientation_says(tmp_path: Path, orientation: int, suffix: str) -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    turned = {
        1: grey, 2: grey[:, ::-1], 3: grey[::-1, ::-1], 4: grey[::-1],
        5: grey.T, 6: grey.T[:, ::-1], 7: grey.T[::-1, ::-1], 8: grey.T[::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".png": {}, ".webp": {"lossless": True}, ".jpg": {"quality": 100}}[suffix]
    path = tmp_path / f"x{suffix}"
    Image.fromarray(grey).save(path, exif=exif, **options)
    header = read_header("folder", path)
    found = decode("folder", path, 1)
    assert (header.height, header.width) == turned.shape == tuple(found.shape[1:])
    assert (found[0].int() - torch.from_numpy(turned.copy()).int()).abs().max() <= (4 if suffix == ".jpg" else 0)


def test_a_picture_of_a_telephone_with_several_images_is_a_jpeg(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((4, 5), grey, np.uint8)) for grey in (50, 200))
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second])
    assert decode("folder", tmp_path / "x.jpg", 1).float().mean().round() == 50


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "content", "expects"),
    [
        ("x.jpg", picture("PNG"), "a JPEG, by its name, got PNG"),
        ("x.png", picture("JPEG"), "a PNG, by its name, got JPEG"),
        ("x.bmp", picture("GIF", "L"), "a BMP, by its name, got GIF"),
        ("x.webp", picture("TIFF"), "a WebP, by its name, got TIFF"),
        ("x.png", b"", "a PNG, by its name, got none of BMP, JPEG, PNG, WebP"),
        ("x.png", b"hello", "a PNG, by its name, got none of BMP, JPEG, PNG, WebP"),
        ("x.tif", picture("TIFF"), "an image (.png, .jpg, .jpeg, .webp, .bmp), got a file 'x.tif'"),
        ("x.png", png(png_header(30000, 30000), (b"IDAT", b"")), "an image of 1 to 67108864 pixels, got 30000×30000"),
        ("x.png", png(png_header(2**32 - 1, 2**32 - 1), (b"IDAT", b"")),
         "an image of 1 to 67108864 pixels, got 4294967295×4294967295"),
        ("x.png", png(png_header(0, 5), (b"IDAT", b"")), "an image of 1 to 67108864 pixels, got 0×5"),
        ("x.webp", b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + b"\xff" * 6,
         "an image of 1 to 67108864 pixels, got 16777216×16777216"),
        ("x.webp", b"RIFF\x12\0\0\0WEBPVP8L\5\0\0\0\x2f\xff\xff\xff\x0f" + bytes(5),
         "an image of 1 to 67108864 pixels, got 16384×16384"),
        ("x.bmp", b"BM" + bytes(12) + struct.pack("<I2i", 40, 30000, -30000) + bytes(28),
         "an image of 1 to 67108864 pixels, got 30000×30000"),
        ("x.jpg", b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">2H", 65535, 65535) + bytes(10) + b"\xff\xda",
         "an image of 1 to 67108864 pixels, got 65535×65535"),
        ("x.jpg", b"\xff\xd8\xff\xe0\0\2\0\0", "a sound JPEG, got a header that is none"),
        ("x.jpg", b"\xff\xd8" + b"\xff\xe0\0\2" * 2**14, "a sound JPEG, got a header of more than 16384 segments"),
        ("x.png", png(png_header(5, 5), *[(b"tEXt", b"")] * 2**18),
         "a sound PNG, got more than 262144 chunks"),
    ],
    ids=range(17),  # not the whole content
)  # fmt: skip
def test_what_is_not_an_image_is_refused_by_its_header(tmp_path: Path, name: str, content: bytes, expects: str) -> None:
    path = written(tmp_path / name, content)
    for read in (lambda: read_header("folder", path), lambda: decode("folder", path, 3)):
        with memory.at_most(LITTLE), pytest.raises(BrokenImage) as error:
            read()
        assert str(error.value) == f"folder expects {expects}. path: {path}. {MEND}"


@pytest.mark.parametrize(
    ("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("BMP", ".bmp")]
)
@pytest.mark.parametrize("told_to_take_it", [False, True])
def test_an_image_cut_at_any_length_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str, told_to_take_it: bool
) -> None:
    content = picture(kind, "L" if kind == "JPEG" else "RGB", size=(9, 8))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", told_to_take_it)
    for length in range(0, len(content), 5 if told_to_take_it else 1):
        path = written(tmp_path / f"x{suffix}", content[:length])
        with pytest.raises(BrokenImage):
            decode("folder", path, 3)


IMAGES = {".png": picture("PNG"), ".jpg": picture("JPEG"), ".webp": picture("WEBP"), ".bmp": picture("BMP")}


@pytest.mark.filterwarnings("ignore:.*EXIF")
@given(st.sampled_from(sorted(IMAGES)), st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_in_an_image_give_an_image_of_its_size_or_a_broken_one(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    content = bytearray(IMAGES[suffix])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = written(tmp_path / f"x{suffix}", bytes(content))
    with contextlib.suppress(BrokenImage):
        header = read_header("folder", path)
        assert decode("folder", path, 3).shape == (3, header.height, header.width)


def test_a_changed_bit_in_a_png_is_found_by_its_checksums(tmp_path: Path) -> None:
    content = picture("PNG", size=(9, 8))
    for bit in range(8 * 8, 8 * len(content), 5):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path = written(tmp_path / "x.png", bytes(changed))
        with pytest.raises(BrokenImage):
            decode("folder", path, 3)
    middle = content.index(b"IDAT") + 20
    path.write_bytes(content[:middle] + bytes((content[middle] ^ 1,)) + content[middle + 1 :])
    with pytest.raises(BrokenImage) as error:
        decode("folder", path, 3)
    text = f"folder expects a sound PNG, got a chunk IDAT that does not match its checksum. path: {path}. {MEND}"
    assert str(error.value) == text


def test_an_image_whose_pixels_expand_beyond_its_size_is_left_there(tmp_path: Path) -> None:
    content = png(png_header(4, 4), (b"IDAT", zlib.compress(bytes(13 * 4 + 2**26), 1)))
    path = written(tmp_path / "x.png", content)
    with memory.at_most(LITTLE // 2):
        assert decode("folder", path, 3).shape == (3, 4, 4)
    text = (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26), 1))
    content = png(png_header(4, 4), text, (b"IDAT", zlib.compress(bytes(52))))
    with memory.at_most(LITTLE // 2), pytest.raises(BrokenImage, match=r"^folder expects a sound PNG, got .*\. path: "):
        decode("folder", written(path, content), 3)


def test_nothing_global_of_pillow_changes(tmp_path: Path) -> None:
    most, truncated = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    two_classes(tmp_path)
    open_data(f"folder:{tmp_path}").parts["train"].image(0)
    assert most == Image.MAX_IMAGE_PIXELS and truncated == ImageFile.LOAD_TRUNCATED_IMAGES


# -------------------------------------------------------------------------------------------------------------- folders


def test_a_folder_is_split_by_the_seed_with_each_class_in_both_parts(tmp_path: Path) -> None:
    two_classes(tmp_path, each=10)
    data = open_data(f"folder:{tmp_path}", seed=1)
    assert data.classes == ("cat", "dog") and data.channels == 3 and data.size == (4, 5) and not data.skipped
    assert {name: part.labels.bincount().tolist() for name, part in data.parts.items()} == {
        "train": [8, 8],
        "test": [2, 2],
    }
    for part in data.parts.values():
        for index in range(len(part)):
            path = tmp_path / part.name(index)
            assert torch.equal(part.image(index), pixels(path.read_bytes(), "RGB"))
            assert data.classes[part.labels[index]] == path.parent.name
    names = [[part.name(k) for part in open_data(f"folder:{tmp_path}", seed).parts.values() for k in range(len(part))]
             for seed in (1, 1, 2)]  # fmt: skip
    assert names[0] == names[1] != names[2] and sorted(names[0]) == sorted(names[2])


def test_parts_of_a_folder_are_kept(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        two_classes(tmp_path / part, each=2)
    data = open_data(f"folder:{tmp_path}")
    assert {name: part.labels.tolist() for name, part in data.parts.items()} == {
        name: [0, 0, 1, 1] for name in ("train", "val", "test")
    }
    assert [data.parts["val"].name(k) for k in range(2)] == ["valid/cat/0.png", "valid/cat/1.png"]
    (tmp_path / "cat").mkdir()
    refused(
        f"folder:{tmp_path}",
        f"folder expects only parts beside test, train, valid, got a folder 'cat'. path: {tmp_path}. Move classes into "
        "the parts, or rename the parts.",
    )


def test_grey_images_beside_coloured_ones_get_three_channels(tmp_path: Path) -> None:
    two_classes(tmp_path, mode="L")
    assert open_data(f"folder:{tmp_path}").channels == 1
    (tmp_path / "dog" / "deep").mkdir()
    (tmp_path / "dog" / "deep" / "9.jpg").write_bytes(picture("JPEG", "RGB", (6, 6)))
    data = open_data(f"folder:{tmp_path}")
    assert data.channels == 3 and data.size is None
    assert data.parts["train"].sizes + data.parts["test"].sizes == {(4, 5): 6, (6, 6): 1}
    images = [part.image(k) for part in data.parts.values() for k in range(len(part))]
    assert all(image.shape[0] == 3 for image in images) and sum(bool((i[0] == i[2]).all()) for i in images) == 6


def test_hidden_files_and_those_of_file_managers_are_no_images(tmp_path: Path) -> None:
    two_classes(tmp_path)
    for name in (".DS_Store", "cat/.hidden", "dog/Thumbs.db", "notes.txt"):
        (tmp_path / name).write_text("no image")
    assert len(open_data(f"folder:{tmp_path}")) == 6


def test_a_broken_image_is_named_or_left_out_and_counted(tmp_path: Path) -> None:
    two_classes(tmp_path, each=5)
    path = tmp_path / "cat" / "2.png"
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    refused(
        f"folder:{tmp_path}",
        f"folder expects a sound PNG, got a file that ends within its pixels. path: {path}. {MEND}",
    )
    path.write_bytes(content.replace(b"IDAT", b"IDAT\0")[: len(content)])
    other = tmp_path / "dog" / "3.jpg"
    other.write_bytes(picture("PNG"))
    data = open_data(f"folder:{tmp_path}", skip_broken=True)
    assert data.skipped == ("cat/2.png", "dog/3.jpg") and len(data) == 9


def test_an_image_that_is_broken_behind_its_header_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    two_classes(tmp_path, each=5, kind="JPEG", suffix=".jpg")
    for path in tmp_path.glob("*/*.jpg"):
        path.write_bytes(path.read_bytes()[:-9])
    data = open_data(f"folder:{tmp_path}")
    part = data.parts["train"]
    with pytest.raises(BrokenImage) as error:
        part.image(0)
    text = str(error.value)
    path = tmp_path / part.name(0)
    assert text == f"folder expects a sound JPEG, got a file that ends within its pixels. path: {path}. {MEND}"
    refused_all = "folder expects an image in each part at least, also in train, got none. Give more images, or others."
    with pytest.raises(DataError) as error:
        open_data(f"folder:{tmp_path}", skip_broken=True)
    assert str(error.value) == refused_all


def test_an_image_that_changed_its_size_since_is_refused(tmp_path: Path) -> None:
    two_classes(tmp_path)
    part = open_data(f"folder:{tmp_path}").parts["train"]
    path = tmp_path / part.name(0)
    path.write_bytes(picture(size=(8, 9)))
    with pytest.raises(DataError) as error:
        part.image(0)
    assert str(error.value) == (
        f"folder expects the size that the image had before (4×5), got 9×8. path: {path}. Open the data set again."
    )


def test_links_out_of_a_folder_are_refused(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "set")
    outside = written(tmp_path / "outside.png", picture())
    link = folder / "cat" / "link.png"
    link.symlink_to(folder / "dog" / "0.png")
    assert len(open_data(f"folder:{folder}")) == 7
    link.unlink()
    end = "Copy what is meant into the folder."
    for target in (outside, Path("/etc/passwd"), Path("../../outside.png"), tmp_path / "missing"):
        link.symlink_to(target)
        refused(
            f"folder:{folder}",
            f"folder expects paths that stay in {folder}, got one that leads out. path: {link}. {end}",
        )
        link.unlink()
    (folder / "bird").symlink_to(folder / "cat")
    refused(
        f"folder:{folder}",
        f"folder expects folders that are no links, got a link. path: {folder}/bird. Move the folder here.",
    )
    (folder / "bird").unlink()
    link.symlink_to(link)
    with pytest.raises(DataError, match=r"^folder expects a file that can be read, got Too many levels of symbolic"):
        open_data(f"folder:{folder}")


def test_an_image_that_became_a_link_out_or_a_pipe_is_refused(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "set")
    part = open_data(f"folder:{folder}").parts["train"]
    first, second = folder / part.name(0), folder / part.name(1)
    first.unlink()
    first.symlink_to(written(tmp_path / "outside.png", picture()))
    with pytest.raises(DataError, match=r"^folder expects a file that can be read, got Too many levels of symbolic"):
        part.image(0)
    second.unlink()
    os.mkfifo(second)
    with pytest.raises(DataError, match=r"^folder expects a file, got something else\."):
        part.image(1)


def test_names_that_cannot_be_printed_are_refused(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "set")
    for name, shown in (
        (b"\x1b[2J", r"'\x1b[2J'"),
        (b"caf\xe9", r"'caf\udce9'"),
        (b"a\nb", r"'a\nb'"),
        ("gpj\u202e".encode(), r"'gpj\u202e'"),
    ):
        path = os.path.join(os.fsencode(folder), name)
        os.mkdir(path)
        refused(
            f"folder:{folder}",
            f"folder expects names in UTF-8 without control codes, got {shown}. path: {folder}. Rename the file.",
        )
        os.rmdir(path)


def test_what_is_no_folder_of_classes_is_refused(tmp_path: Path) -> None:
    refused(
        f"folder:{tmp_path}",
        f"folder expects two subfolders at least, one a class, got none. path: {tmp_path}. Put the images of each "
        "class into a subfolder of its own.",
    )
    two_classes(tmp_path)
    (tmp_path / "bird").mkdir()
    refused(
        f"folder:{tmp_path}",
        f"folder expects an image at least of the class 'bird', got none. path: {tmp_path}/bird. Remove the folder, or "
        "fill it.",
    )
    file = written(tmp_path / "file", b"")
    refused(f"folder:{file}", f"folder expects a folder, got a file. path: {file}. Check the path.")


# --------------------------------------------------------------------------------------------------------------- tables


def test_a_table_names_images_and_their_labels(tmp_path: Path) -> None:
    two_classes(tmp_path, each=2)
    table = tmp_path / "labels.csv"
    table.write_text('\ufefflabel,width,path\n10,5,cat/0.png\n9,5,"cat/1.png"\n\n10,5,dog/0.png\n9,5,./dog/1.png\n')
    data = open_data(f"csv:{table}")
    assert data.classes == ("9", "10") and len(data) == 4
    all_images = [(part, index) for part in data.parts.values() for index in range(len(part))]
    images = {part.name(index): (part.image(index), int(part.labels[index])) for part, index in all_images}
    assert {name: label for name, (_, label) in images.items()} == {
        "cat/0.png": 1, "cat/1.png": 0, "dog/0.png": 1, "./dog/1.png": 0,
    }  # fmt: skip
    assert torch.equal(images["./dog/1.png"][0], pixels((tmp_path / "dog/1.png").read_bytes(), "RGB"))


def test_a_table_may_name_parts(tmp_path: Path) -> None:
    two_classes(tmp_path, each=2)
    table = tmp_path / "labels.csv"
    rows = ["cat/0.png,cat,train", "dog/0.png,dog,train", "cat/1.png,cat,test", "dog/1.png,dog,val"]
    table.write_text("\n".join(["path,label,part", *rows]))
    parts = open_data(f"csv:{table}").parts
    assert {name: part.labels.tolist() for name, part in parts.items()} == {"train": [0, 1], "val": [1], "test": [0]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", f"columns path and label, got ''. path: {{table}}. {HEADER}"),
        (b"cat/0.png,cat\n", f"columns path and label, got 'cat/0.png,cat'. path: {{table}}. {HEADER}"),
        (b"path,label\n", "a line for each image, got none. path: {table}. Write as cat/1.png,cat."),
        (b"path,label\n../outside.png,cat\n", "paths that stay in {folder}, got one that leads out. path: "
         "{folder}/../outside.png. Copy what is meant into the folder."),
        (b"path,label\ncat/../../outside.png,cat\n", "paths that stay in {folder}, got one that leads out. path: "
         "{folder}/cat/../../outside.png. Copy what is meant into the folder."),
        (b"path,label\n/etc/passwd,cat\n", "paths relative to the table, got '/etc/passwd'. path: {table}. line: 2. "
         "Write it so."),
        (b"path,label\ncat/0.png\n", "2 cells in each line, got 1. path: {table}. line: 2. Mend the line."),
        (b"path,label\ncat/0.png,\n", "a path, a label, and train, val or test as a part if there are parts, got "
         "'cat/0.png,'. path: {table}. line: 2. Mend the line."),
        (b"path,label,part\ncat/0.png,cat,training\n", "a path, a label, and train, val or test as a part if there are "
         "parts, got 'cat/0.png,cat,training'. path: {table}. line: 2. Mend the line."),
        (b"path,label,part\ncat/0.png,cat,test\n", "a part train, got only test. path: {table}. Name training images "
         "too."),
        (b"path,label\ncat/7.png,cat\n", "a file that can be read, got No such file or directory. path: "
         "{folder}/cat/7.png. Check the path."),
        (b"path,label\n\xff\xfe,cat\n", f"a table in UTF-8, got 'utf-8' codec can't decode byte 0xff in position 11: "
         f"invalid start byte. path: {{table}}. {HEADER}"),
        (b'path,label\n"cat/0.png,cat\n', f"a table in UTF-8, got unexpected end of data. path: {{table}}. {HEADER}"),
        (b"path,label\n" + b"a" * 200000 + b",cat\n", f"a table in UTF-8, got field larger than field limit (131072). "
         f"path: {{table}}. {HEADER}"),
    ],
    ids=range(14),
)  # fmt: skip
def test_a_table_with_a_mistake_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    folder = two_classes(tmp_path / "set")
    (tmp_path / "outside.png").write_bytes(picture())
    table = written(folder / "labels.csv", content)
    refused(f"csv:{table}", f"csv expects {text.format(table=table, folder=folder)}")


def test_decoded_parts_can_be_sent_to_another_process(tmp_path: Path) -> None:
    import pickle

    part = open_data(f"folder:{two_classes(tmp_path)}").parts["train"]
    copy = pickle.loads(pickle.dumps(part))
    assert isinstance(copy.images, Decoded) and torch.equal(copy.image(1), part.image(1))


def test_files_and_folders_beyond_what_is_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = two_classes(tmp_path / "set")
    table = written(folder / "labels.csv", b"path,label\ncat/0.png,cat\n")
    monkeypatch.setattr("striate.training.data.folder.MOST_TABLE_BYTES", 20)
    refused(
        f"csv:{table}",
        f"csv expects a table of at most 20 bytes, got 25. path: {table}. Check which file it is.",
    )
    monkeypatch.setattr("striate.training.data.images.MOST_FILE_BYTES", 50)
    path = folder / "cat" / "0.png"
    refused(
        f"folder:{folder}",
        f"folder expects a file of at most 50 bytes, got {path.stat().st_size}. path: {path}. {MEND}",
    )

    def denied(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", denied)
    refused(
        f"folder:{folder}",
        f"folder expects a folder that can be read, got Permission denied. path: {folder}. Check its permissions.",
    )
