"""``folder:DIR`` and ``csv:FILE``: images in files, each decoded when it is asked for.

In a folder each class is a subfolder. If the folder has subfolders train and val or test, those have the classes;
otherwise a fifth of each class is held out for testing, by the seed. A table has the columns path and label, and may
have one named part with train, val or test.

All headers are read when the data set is opened, so that its sizes and its number of channels are known. What is broken
behind its header is found when it is decoded; if broken images are to be left out, all are decoded once at first.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import DataError, build
from .dataset import PARTS, DataSet, Decoded, Part, Request, class_names, split_part
from .images import BrokenImage, decode, read_header
from .sources import folder_of, is_plain, names_in, open_file, user_path, within

__all__ = ["files_below", "read", "read_csv"]

IGNORED = {"thumbs.db", "desktop.ini"}  # what file managers leave in folders, beside hidden files
ALIASES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MOST_TABLE_BYTES = 2**28


class _File(NamedTuple):
    """An image's file: where it really lies, what messages call it, and its class."""

    path: Path
    name: str
    label: str


@dataclass(frozen=True)
class _Files:
    """Decodes the image of an index."""

    kind: str
    paths: Sequence[Path]
    sizes: Sequence[tuple[int, int]]
    channels: int

    def __call__(self, index: int) -> Tensor:
        image = decode(self.kind, self.paths[index], self.channels)
        if tuple(image.shape[1:]) != self.sizes[index]:
            expects = "the size that the image had before ({}×{})".format(*self.sizes[index])
            got = f"{image.shape[1]}×{image.shape[2]}"
            hint = "Open the data set again."
            raise DataError(build(self.kind, expects, got, path=self.paths[index], hint=hint))
        return image


def read(request: Request) -> DataSet:
    """Reads the headers of the images in a folder."""
    where, root = request.kind, folder_of(request.kind, request.rest)
    subfolders = [name for name, is_folder in _entries(where, root, root) if is_folder]
    parts = {ALIASES[name]: name for name in subfolders if name in ALIASES}
    if "train" in parts:
        others = [name for name in subfolders if name not in parts.values()]
        if others:
            expects = f"only parts beside {', '.join(sorted(parts.values()))}"
            hint = "Move classes into the parts, or rename the parts."
            raise DataError(build(where, expects, f"a folder {others[0]!r}", path=root, hint=hint))
        files = {part: list(_classes(where, root / parts[part], root)) for part in PARTS if part in parts}
    else:
        files = {"all": list(_classes(where, root, root))}
    return _assembled(request, files)


def read_csv(request: Request) -> DataSet:
    """Reads a table, and the headers of the images that it names by paths relative to its own folder."""
    where, path = request.kind, user_path(request.rest)
    file, file_bytes = open_file(where, path, follows=True)
    root = Path(os.path.realpath(path)).parent
    files: dict[str, list[_File]] = {}
    with file:
        if file_bytes > MOST_TABLE_BYTES:
            expects = f"a table of at most {MOST_TABLE_BYTES} bytes"
            raise DataError(build(where, expects, file_bytes, path=path, hint="Check which file it is."))
        for line, row in _rows(where, path, file.read(file_bytes)):
            name, label, part = row["path"], row["label"], row.get("part", "all")
            if not name or not label or part not in ("all", *PARTS):
                expects = "a path, a label, and train, val or test as a part if there are parts"
                got = repr(",".join(row.values()))[:80]
                hint = "Mend the line."
                raise DataError(build(where, expects, got, path=path, line=line, hint=hint))
            if os.path.isabs(name) or not is_plain(name):
                expects = "paths relative to the table"
                raise DataError(build(where, expects, ascii(name), path=path, line=line, hint="Write it so."))
            files.setdefault(part, []).append(_File(within(where, root / name, root), name, label))
    if not files:
        raise DataError(build(where, "a line for each image", "none", path=path, hint="Write as cat/1.png,cat."))
    if "all" not in files and "train" not in files:
        got = ", ".join(files)
        raise DataError(build(where, "a part train", f"only {got}", path=path, hint="Name training images too."))
    return _assembled(request, {part: files[part] for part in ("all", *PARTS) if part in files})


def _rows(where: str, path: Path, content: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table by its columns path, label and part, each with the number of its line."""
    hint = "Write a first line path,label, then a line for each image."
    try:
        lines = csv.reader(content.decode("utf-8-sig").splitlines(), strict=True)
        header = [cell.strip() for cell in next(lines, [])]
        if not {"path", "label"} <= set(header) or len(set(header)) < len(header):
            got = repr(",".join(header))[:80]
            raise DataError(build(where, "columns path and label", got, path=path, hint=hint))
        places = {column: header.index(column) for column in ("path", "label", "part") if column in header}
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(header):
                expects = f"{len(header)} cells in each line"
                hint = "Mend the line."
                raise DataError(build(where, expects, len(cells), path=path, line=lines.line_num, hint=hint))
            yield lines.line_num, {column: cells[place].strip() for column, place in places.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(build(where, "a table in UTF-8", str(error).rstrip("."), path=path, hint=hint)) from None


def _entries(where: str, folder: Path, root: Path) -> list[tuple[str, bool]]:
    """The names in a folder that are not hidden, in order, and whether each is a folder. Links to folders are refused,
    and links that lead out of the root.
    """
    found = []
    for name in names_in(where, folder):
        path = folder / name
        if name.startswith(".") or name.lower() in IGNORED:
            continue
        is_folder = os.path.isdir(path)
        if os.path.islink(path):
            within(where, path, root)
            if is_folder:
                expects, hint = "folders that are no links", "Move the folder here."
                raise DataError(build(where, expects, "a link", path=path, hint=hint))
        found.append((name, is_folder))
    return found


def _classes(where: str, folder: Path, root: Path) -> Iterator[_File]:
    """The images of each class of a part, in the order of their names."""
    classes = [name for name, is_folder in _entries(where, folder, root) if is_folder]
    if len(classes) < 2:
        hint = "Put the images of each class into a subfolder of its own."
        got = "one" if classes else "none"
        raise DataError(build(where, "two subfolders at least, one a class", got, path=folder, hint=hint))
    for label in classes:
        files = list(files_below(where, folder / label, root))
        if not files:
            expects = f"an image at least of the class {label!r}"
            raise DataError(build(where, expects, "none", path=folder / label, hint="Remove the folder, or fill it."))
        yield from (_File(path, str(name.relative_to(root)), label) for path, name in files)


def files_below(where: str, folder: Path, root: Path) -> Iterator[tuple[Path, Path]]:
    """The files below a folder: where each really lies, and its name."""
    for name, is_folder in _entries(where, folder, root):
        path = folder / name
        if is_folder:
            yield from files_below(where, path, root)
        else:
            yield within(where, path, root), path


def _assembled(request: Request, files: dict[str, list[_File]]) -> DataSet:
    """Reads all headers, and makes the parts."""
    where, skipped = request.kind, []
    kept: list[_File] = []
    part_of: list[str] = []
    sizes: list[tuple[int, int]] = []
    channels = 1
    for part, part_files in files.items():
        for file in part_files:
            try:
                header = read_header(where, file.path)
                if request.skip_broken:
                    decode(where, file.path, header.channels)
            except BrokenImage:
                if not request.skip_broken:
                    raise
                skipped.append(file.name)
                continue
            kept.append(file)
            part_of.append(part)
            sizes.append((header.height, header.width))
            channels = max(channels, header.channels)
    classes = class_names(file.label for file in kept)
    place = {label: number for number, label in enumerate(classes)}
    labels = torch.tensor([place[file.label] for file in kept], dtype=torch.int64)
    paths = [file.path for file in kept]
    load = _Files(where, paths, sizes, channels)
    names = [file.name for file in kept]
    parts = {}
    for part in files:
        indices = torch.tensor([k for k, name in enumerate(part_of) if name == part], dtype=torch.int64)
        parts[part] = Part(Decoded(load, channels, sizes, names, indices, paths), labels[indices])
    if list(parts) in (["all"], ["train"]):
        parts = split_part(next(iter(parts.values())), request.seed)
    return DataSet(where, classes, parts, tuple(skipped))
