"""Data sets in binary files: MNIST, CIFAR and npz are read exactly, and hostile files are refused in bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import memory
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from made_data import LITTLE, cifar_binary, cifar_pickled, idx, mnist, refused

from striate.errors import DataError
from striate.training.data import DataSet, open_data, pickles, sources
from striate.training.data.idx import read_idx
from striate.training.data.pickles import read_pickle

AGAIN = "Copy or download it again."
FOUR = "mnist expects train-images-idx3-ubyte, train-labels-idx1-ubyte and the two of t10k, gzipped or not"
UNKNOWN = f"an array of NumPy as images, got a member with another header. path: {{path}}. {AGAIN}"
OTHER_LENGTH = f"{{whole}} bytes of images, as its header says, got {{found}}. path: {{path}}. {AGAIN}"
CONVERT = "path: {path}. Convert it: images to numpy.uint8 from 0 to 255, labels to whole numbers."
MANY_MEMBERS = "one with a list of members of more than 65536 bytes, or of 4 GiB"


def refused_or_equal(spec: str, whole: DataSet) -> bool:
    """Whether the specification is refused; if it is not, it must be the whole data set."""
    try:
        found = open_data(spec)
    except DataError:
        return True
    for name, part in whole.parts.items():
        assert torch.equal(found.parts[name].images, part.images) and torch.equal(found.parts[name].labels, part.labels)
    return False


# --------------------------------------------------------------------------------------------------------------- MNIST


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_exactly(tmp_path: Path, packed: bool) -> None:
    arrays = mnist(tmp_path, packed)
    data = open_data(f"mnist:{tmp_path}")
    assert data.classes == ("0", "1", "2") and data.channels == 1 and data.size == (3, 2) and len(data) == 10
    for part, name in (("train", "train"), ("test", "t10k")):
        images, labels = arrays[f"{name}-images-idx3-ubyte"], arrays[f"{name}-labels-idx1-ubyte"]
        assert torch.equal(data.parts[part].images, torch.from_numpy(images)[:, None])
        assert torch.equal(data.parts[part].labels, torch.from_numpy(labels).long())


def test_emnist_is_transposed_and_its_mapping_names_the_classes(tmp_path: Path) -> None:
    arrays = mnist(tmp_path, packed=True, prefix="emnist-letters-")
    for path in tmp_path.glob("*t10k*"):
        path.rename(path.with_name(path.name.replace("t10k", "test")))
    (tmp_path / "emnist-letters-mapping.txt").write_text("0 65 97\n1 66 98\n2 67 99\n")
    mnist(tmp_path, packed=True, prefix="emnist-digits-")
    data = open_data(f"mnist:{tmp_path}/emnist-letters")
    assert data.classes == ("A", "B", "C") and data.size == (2, 3)
    images = torch.from_numpy(arrays["train-images-idx3-ubyte"])
    assert torch.equal(data.parts["train"].images[:, 0], images.transpose(1, 2))
    refused(
        f"mnist:{tmp_path}",
        f"{FOUR}, got several sets: emnist-digits, emnist-letters. path: {tmp_path}. Name one, as "
        f"mnist:{tmp_path}/emnist-digits.",
    )
    (tmp_path / "emnist-letters-mapping.txt").write_text("A is 0")
    refused(
        f"mnist:{tmp_path}/emnist-letters",
        "mnist expects lines of a label and the code of its character, got other text. path: "
        f"{tmp_path}/emnist-letters-mapping.txt. {AGAIN}",
    )


def test_labels_from_1_on_become_classes_from_0_on(tmp_path: Path) -> None:
    labels = {"train_labels_idx1_ubyte": [1, 2, 10, 1, 2, 10], "t10k_labels_idx1_ubyte": [10, 2, 1, 1]}
    mnist(tmp_path, **{name: idx(np.array(values, np.uint8)) for name, values in labels.items()})
    data = open_data(f"mnist:{tmp_path}")
    assert data.classes == ("1", "2", "10") and data.parts["test"].labels.tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_cut_at_any_length_are_refused(tmp_path: Path, packed: bool) -> None:
    mnist(tmp_path, packed)
    whole = open_data(f"mnist:{tmp_path}")
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for length in range(len(content)):
            path.write_bytes(content[:length])
            assert refused_or_equal(f"mnist:{tmp_path}", whole), (path.name, length)
        path.write_bytes(content + b"\0")
        assert refused_or_equal(f"mnist:{tmp_path}", whole) or packed  # gzip lets zeros follow
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (
            b"\0\0\x09\3" + bytes(48),
            "an IDX file of unsigned bytes with 3 axes, got one that begins with 00000903. path: {path}. ",
        ),
        (b"", "an IDX file of unsigned bytes with 3 axes, got one that begins with . path: {path}. "),
        (
            bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**16, 2**8, 2**7) + bytes(36),
            "a file of 2147483664 bytes, as its header says, got 52. path: {path}. ",
        ),
        (idx(np.zeros((6, 3, 2), np.uint8)) + b"\0", "a file of 52 bytes, as its header says, got 53. path: {path}. "),
    ],
)
def test_an_idx_file_that_is_not_as_its_header_says_is_refused(tmp_path: Path, content: bytes, got: str) -> None:
    mnist(tmp_path, train_images_idx3_ubyte=content)
    path = tmp_path / "train-images-idx3-ubyte"
    refused(f"mnist:{tmp_path}", f"mnist expects {got.format(path=path)}{AGAIN}")


def test_headers_that_claim_too_much_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    huge = bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)
    mnist(tmp_path, train_images_idx3_ubyte=huge)
    path = tmp_path / "train-images-idx3-ubyte"
    refused(
        f"mnist:{tmp_path}",
        f"mnist expects at most 2147483648 bytes of images in one file, got {(2**32 - 1) ** 3} in its header. path: "
        f"{path}. Keep larger sets as a folder of images (folder:DIR).",
    )
    path.unlink()
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**15, 2**8, 2**8), mtime=0))
    bytes_ = packed.stat().st_size
    refused(
        f"mnist:{tmp_path}",
        f"mnist expects at most {1032 * bytes_} bytes from {bytes_} compressed ones, got 2147483648 in its header. "
        f"path: {packed}. {AGAIN}",
    )


def test_a_gzip_bomb_is_left_at_what_its_header_says(tmp_path: Path) -> None:
    mnist(tmp_path, packed=True, train_images_idx3_ubyte=idx(np.zeros((6, 3, 2), np.uint8)) + bytes(2**26))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    assert path.stat().st_size < 2**19
    refused(f"mnist:{tmp_path}", f"mnist expects 36 bytes behind its header, got more. path: {path}. {AGAIN}")


def test_a_damaged_gzip_file_is_refused(tmp_path: Path) -> None:
    mnist(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = path.read_bytes()
    path.write_bytes(content[:-8] + b"\0" * 4 + content[-4:])
    with pytest.raises(DataError) as error:
        open_data(f"mnist:{tmp_path}")
    start = "mnist expects 36 bytes behind its header, got 36 and then CRC check failed"
    assert str(error.value).startswith(start) and str(error.value).endswith(f" path: {path}. {AGAIN}")
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"^mnist expects a gzipped IDX file, got Not a gzipped file \(b'no'\)\. path"):
        open_data(f"mnist:{tmp_path}")


@given(st.binary(max_size=64), st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_an_idx_file_are_data_or_a_data_error(tmp_path: Path, content: bytes, headed: bool) -> None:
    for name in ("file", "file.gz"):
        path = tmp_path / name
        path.write_bytes(bytes((0, 0, 8, 1)) + content if headed else content)
        with contextlib.suppress(DataError):
            assert read_idx("mnist", path, 1).numel() == len(content) - 4


def test_what_lacks_for_an_mnist_is_named(tmp_path: Path) -> None:
    refused(
        f"mnist:{tmp_path}",
        f"{FOUR}, got none of them. path: {tmp_path}. Give the folder that holds them.",
    )
    mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    refused(
        f"mnist:{tmp_path}",
        f"mnist expects a file t10k-labels-idx1-ubyte, gzipped or not, got none. path: {tmp_path}. Copy it into the "
        "folder.",
    )
    refused(
        f"mnist:{tmp_path}/a/b", f"mnist expects a folder, got no such folder. path: {tmp_path}/a/b. Check the path."
    )


def test_images_and_labels_of_an_mnist_must_fit(tmp_path: Path) -> None:
    mnist(tmp_path, train_labels_idx1_ubyte=idx(np.zeros(5, np.uint8)))
    path = tmp_path / "train-labels-idx1-ubyte"
    refused(
        f"mnist:{tmp_path}",
        f"mnist expects as many labels as images, got 6 images and 5 labels. path: {path}. {AGAIN}",
    )
    mnist(tmp_path, t10k_images_idx3_ubyte=idx(np.zeros((4, 5, 5), np.uint8)))
    refused(
        f"mnist:{tmp_path}",
        f"mnist expects training and test images of one size, got 3×2 and 5×5. path: {tmp_path}. Put each data set "
        "into its own folder.",
    )
    mnist(tmp_path, t10k_labels_idx1_ubyte=idx(np.array([0, 1, 2, 7], np.uint8)))
    refused(
        f"mnist:{tmp_path}",
        "mnist expects only classes of the training part in the part test, got '7'. Give training images of each "
        "class.",
    )
    mnist(tmp_path, train_images_idx3_ubyte=idx(np.zeros((6, 0, 2), np.uint8)))
    path = tmp_path / "train-images-idx3-ubyte"
    refused(
        f"mnist:{tmp_path}",
        f"mnist expects an image at least, got 6×0×2. path: {path}. Check which file it is.",
    )


@pytest.mark.parametrize("kind", ["mnist", "cifar10"])
def test_a_link_out_of_the_folder_is_refused_and_one_within_is_followed(tmp_path: Path, kind: str) -> None:
    folder, outside = tmp_path / "set", tmp_path / "outside"
    name = "train-images-idx3-ubyte" if kind == "mnist" else "data_batch_1.bin"
    (mnist if kind == "mnist" else cifar_binary)(folder)
    (folder / name).rename(folder / "moved")
    (folder / name).symlink_to(folder / "moved")
    assert len(open_data(f"{kind}:{folder}")) >= 10
    (folder / name).unlink()
    (folder / "moved").rename(outside)
    (folder / name).symlink_to("../outside")
    refused(
        f"{kind}:{folder}",
        f"{kind} expects paths that stay in {folder}, got one that leads out. path: {folder / name}. Copy what is "
        "meant into the folder.",
    )


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.npz"
    os.mkfifo(path)
    refused(f"npz:{path}", f"npz expects a file, got something else. path: {path}. Name a file.")


# --------------------------------------------------------------------------------------------------------------- CIFAR


def test_the_binary_cifar_10_is_read_exactly(tmp_path: Path) -> None:
    records = cifar_binary(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"name{k}" for k in range(10)) + "\n\n")
    data = open_data(f"cifar10:{tmp_path}")
    train = np.concatenate([records[f"data_batch_{k}"] for k in range(1, 6)])
    assert torch.equal(data.parts["train"].images, torch.from_numpy(train[:, 1:]).reshape(10, 3, 32, 32))
    assert torch.equal(data.parts["test"].images.flatten(1), torch.from_numpy(records["test_batch"][:, 1:]))
    assert data.parts["train"].labels.tolist() == [0, 1] * 5 and data.classes == tuple(f"name{k}" for k in range(10))


def test_the_binary_cifar_100_gives_the_fine_labels(tmp_path: Path) -> None:
    records = cifar_binary(tmp_path / "cifar-100-binary", label_bytes=2)
    data = open_data(f"cifar100:{tmp_path}")
    assert torch.equal(data.parts["train"].images.flatten(1), torch.from_numpy(records["train"][:, 2:]))
    assert data.parts["test"].labels.tolist() == [0, 1] and data.classes[:2] == ("0", "1") and len(data.classes) == 100


@pytest.mark.parametrize("protocol", range(6))
def test_the_pickled_cifar_is_read_exactly(tmp_path: Path, protocol: int) -> None:
    arrays = cifar_pickled(tmp_path, protocol)
    data = open_data(f"cifar10:{tmp_path}")
    train = np.concatenate([arrays[f"data_batch_{k}"] for k in range(1, 6)])
    assert torch.equal(data.parts["train"].images, torch.from_numpy(train).reshape(10, 3, 32, 32))
    assert data.parts["test"].labels.tolist() == [0, 1] and data.classes[9] == "class 9"


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """Its text and bytes are one type: instructions U and T, which Python 3 never writes."""
    header = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02u1I0\nI1\ntR(I3\nU\x01|NNNI-1\nI-1\nI0\ntb"
    array = header + b"(I1\n(I2\nI3\nt" + dtype + b"I00\nU\x06\x00\x01\x80\xfe\xff\x7ftb"
    found = read_pickle("cifar10", tmp_path, b"\x80\x02}(U\x04data" + array + b"U\x06labels]I7\nau.")
    assert found["data"].tolist() == [[0, 1, 128], [254, 255, 127]] and found["labels"] == [7]


def test_a_cifar_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    binary, pickled = tmp_path / "binary", tmp_path / "pickled"
    cifar_binary(binary, each=1)
    cifar_pickled(pickled, each=1)
    for folder, name in ((binary, "data_batch_3.bin"), (pickled, "data_batch_3")):
        path = folder / name
        content = path.read_bytes()
        lengths = [*range(0, 90), *range(90, len(content) - 90, 97), *range(len(content) - 90, len(content))]
        for length in lengths:
            path.write_bytes(content[:length])
            with pytest.raises(DataError, match=r"^cifar10 expects .*\. path: .*\."):
                open_data(f"cifar10:{folder}")


def test_what_is_no_cifar_is_told(tmp_path: Path) -> None:
    refused(
        f"cifar10:{tmp_path}",
        "cifar10 expects data_batch_1.bin and test_batch.bin, or data_batch_1 and test_batch, got none of them. path: "
        f"{tmp_path}. Unpack the archive, and give the folder that it makes.",
    )
    cifar_binary(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(bytes(3072))
    refused(
        f"cifar10:{tmp_path}",
        f"cifar10 expects a whole number of records of 3073 bytes, got a file of 3072 bytes. path: {path}. {AGAIN}",
    )
    path.write_bytes(b"\x0a" + bytes(3072))
    refused(f"cifar10:{tmp_path}", f"cifar10 expects labels from 0 to 9, got 10. path: {path}. {AGAIN}")
    path.unlink()
    refused(
        f"cifar10:{tmp_path}",
        f"cifar10 expects a file that can be read, got No such file or directory. path: {path}. Check the path.",
    )
    cifar_binary(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("cat dog")
    refused(
        f"cifar10:{tmp_path}",
        f"cifar10 expects 10 names of classes, got 2 of them. path: {tmp_path}/batches.meta.txt. {AGAIN}",
    )
    (tmp_path / "batches.meta.txt").write_bytes(bytes(2**16 + 1))
    refused(
        f"cifar10:{tmp_path}",
        f"cifar10 expects a file of at most 65536 bytes, got 65537 bytes. path: {tmp_path}/batches.meta.txt. Check the "
        "path.",
    )


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ([1, 2], "an array 'data' of N×3072 bytes, got none"),
        ({"data": np.zeros((2, 5), np.uint8)}, "an array 'data' of N×3072 bytes, got an array of shape (2, 5)"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "a list 'labels' of 2 whole numbers, got another"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [True]}, "a list 'labels' of 1 whole numbers, got another"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [11]}, "labels from 0 to 9, got 11"),
    ],
)
def test_a_pickled_cifar_with_other_content_is_refused(tmp_path: Path, batch: Any, text: str) -> None:
    cifar_pickled(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(batch, protocol=2))
    refused(f"cifar10:{tmp_path}", f"cifar10 expects {text}. path: {path}. {AGAIN}")


# ------------------------------------------------------------------------------------------------------------- pickles


class Runs:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> Any:
        return self.called


def unread(content: bytes) -> str:
    """What is said of a refused pickle."""
    with memory.at_most(LITTLE), pytest.raises(DataError) as error:
        read_pickle("cifar10", Path("batch"), content)
    start = "cifar10 expects a pickle of dicts, lists, text, numbers and arrays of bytes, got "
    end = ". path: batch. Nothing of it was run. Download it again."
    assert str(error.value).startswith(start) and str(error.value).endswith(end)
    return str(error.value)[len(start) : -len(end)]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_something_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    touched = tmp_path / "touched"
    for function, arguments, name in (
        (os.system, (f"touch {touched}",), "posix.system"),
        (open, (str(touched), "w"), "io.open"),
        (eval, ("1",), "__builtin__.eval" if protocol < 3 else "builtins.eval"),
        (getattr, ("", "join"), "__builtin__.getattr" if protocol < 3 else "builtins.getattr"),
    ):
        content = pickle.dumps({"data": Runs(function, *arguments)}, protocol=protocol)
        assert unread(content) == f"the function {name!r}"
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (pickle.dumps(np.zeros(2, np.float32), 2), "an array of 'f4', not of bytes"),
        (pickle.dumps(np.array([{}], object), 2), "an array of 'O8', not of bytes"),
        (pickle.dumps({1.5: 2}), "a dict whose keys are no text"),
        (pickle.dumps([[[[[]]]]]), "data of more than three levels"),
        (pickle.dumps({1, 2}), "the instruction EMPTY_SET"),
        (b"\x80\x02Pid\n.", "the instruction PERSID"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1"),
        (b"\x80\x02cnumpy\nndarray\n.", "a function or an array without its numbers as data"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "a call of numpy.ndarray with other arguments"),
        (b"\x80\x02(.", "a function or an array without its numbers as data"),
        (b"\x80\x02]I1\n0.", "the instruction POP"),
        (b"\x80\x02]t.", "an instruction without what it needs"),
        (b"\x80\x02}I1\ns.", "items for what is no dict"),
        (b"\x80\x02s.", "an instruction without what it needs"),
        (b"\x80\x02)I1\na.", "items for what is no list"),
        (b"\x80\x02](I1\nI2\nu.", "items for what is no dict"),
        (b"\x80\x02I1\nI2\nR.", "a call of what is no function"),
        (b"\x80\x02I1\n}b.", "a state for what has none"),
        (b"\x80\x02h\x07.", "damage (7)"),
        (b"\x80\x02]", "damage (pickle exhausted before seeing STOP)"),
        (b"", "damage (pickle exhausted before seeing STOP)"),
        (b"\x80\x02" + b"I1\n" * 2 + b".", "damage (too many values to unpack (expected 1))"),
        (b"\x80\x02T\xff\xff\xff\x7fabc.", "damage (expected 2147483647 bytes in a string4, but only 4 remain)"),
        (b"\x80\x02\x8e" + b"\xff" * 7 + b"\x7fabc.", None),
    ],
)  # fmt: skip
def test_a_pickle_that_is_not_plain_data_is_refused(content: bytes, got: str | None) -> None:
    assert unread(content) == got or got is None


def test_shapes_of_pickled_arrays_are_compared_with_their_bytes() -> None:
    content = pickle.dumps(np.zeros((3, 5), np.uint8), 2)
    assert unread(content.replace(b"K\x03K\x05", b"K\x03K\x06")) == "an array of shape (3, 6) in 15 bytes"
    negative = content.replace(b"K\x03K\x05", b"J\xfd\xff\xff\xffJ\xfb\xff\xff\xff")
    assert unread(negative) == "an array of shape (-3, -5) in 15 bytes"
    by_columns = np.asfortranarray([[1, 2], [3, 4]], np.uint8)
    assert read_pickle("cifar10", Path(), pickle.dumps(by_columns, 2)).tolist() == [[1, 2], [3, 4]]


def test_pickles_that_grow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[Any] = [0] * 1000
    found = read_pickle("cifar10", Path(), pickle.dumps([[shared] * 1000] * 1000))  # 10⁹ items if each were copied
    assert found[999] is found[0] and found[0][999] is found[0][0]
    circle: list[Any] = []
    circle.append(circle)
    assert unread(pickle.dumps(circle)) == "data of more than three levels"
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 100)
    assert unread(b"\x80\x02" + b"}" * 200) == "more than 100 instructions"


@given(st.binary(max_size=60), st.sampled_from([pickle.dumps({"a": [1, "b", (2.5, None)]}, 2), b"\x80\x04", b""]))
@settings(max_examples=400, deadline=None)
def test_any_bytes_as_a_pickle_are_data_or_a_data_error(content: bytes, before: bytes) -> None:
    for tried in (before + content, before[: len(content)] + content + before[len(content) :]):
        with contextlib.suppress(DataError):
            read_pickle("cifar10", Path(), tried)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of escapes in damaged text
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_byte_in_a_pickle_gives_data_or_a_data_error(data: st.DataObject) -> None:
    content = bytearray(pickle.dumps({b"labels": [0, 300, 2], b"data": np.zeros((2, 3), np.uint8)}, 2))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        read_pickle("cifar10", Path(), bytes(content))


# ----------------------------------------------------------------------------------------------------------------- npz


def numbers(*shape: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, shape, np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_an_npz_are_read_exactly(tmp_path: Path, save: Any) -> None:
    train, test, path = numbers(6, 4, 5), numbers(2, 4, 5), tmp_path / "set.npz"
    save(path, x_train=train, y_train=[3, 5, 3, 5, 3, 5], x_test=test, y_test=np.array([[5], [3]], ">i2"))
    data = open_data(f"npz:{path}")
    assert torch.equal(data.parts["train"].images, torch.from_numpy(train)[:, None]) and data.classes == ("3", "5")
    assert torch.equal(data.parts["test"].images, torch.from_numpy(test)[:, None])
    assert data.parts["train"].labels.tolist() == [0, 1] * 3 and data.parts["test"].labels.tolist() == [1, 0]


def test_channels_of_an_npz_may_stand_last_or_second_and_classes_may_be_named(tmp_path: Path) -> None:
    images, path = numbers(10, 4, 5, 3), tmp_path / "set.npz"
    labels = [0, 1] * 5
    for stored in (images, np.asfortranarray(images), images.transpose(0, 3, 1, 2)):
        np.savez(path, images=stored, labels=labels, classes=["cat", "dog"])
        data = open_data(f"npz:{path}", seed=3)
        assert data.classes == ("cat", "dog") and {name: len(part) for name, part in data.parts.items()} == {
            "train": 8,
            "test": 2,
        }
        seen = {image.numpy().tobytes() for part in data.parts.values() for image in part.images}
        assert seen == {image.transpose(2, 0, 1).tobytes() for image in images}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_cut_at_any_length_is_refused(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "set.npz"
    save(path, images=numbers(4, 2, 2), labels=[0, 1, 0, 1])
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"^npz expects .* path: .*\."):
            open_data(f"npz:{path}")


def archive(path: Path, how: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", how) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def npy(shape: str, descr: str = "|u1", content: bytes = b"", version: int = 1) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes((version, 0)) + length + header + content


LABELS = npy("(2,)", "|u1", b"\0\1")


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (
            npy("(1000000, 1000, 1000)"),
            "at most 2147483648 bytes of images in one file, got 1000000000000 in its header. path: {path}. Keep "
            "larger sets as a folder of images (folder:DIR).",
        ),
        (
            npy("(2, 1000, 1000)"),
            "at most {most} bytes from {packed} compressed ones, got 2000000 in its header. path: {path}. "
            f"{AGAIN}",
        ),
        (npy("(2, 3, 3)", content=bytes(17)), OTHER_LENGTH),
        (npy("(2, 3, 3)", content=bytes(2**26)), OTHER_LENGTH),
        (npy("(2, 3, 3)", "|O", bytes(144)), f"images of uint8, got elements O. {CONVERT}"),
        (npy("(2, 3, 3)", "<f4", bytes(72)), f"images of uint8, got elements f4. {CONVERT}"),
        (
            npy("(2, 9)", content=bytes(18)),
            "images of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, got (2, 9). path: {path}. "
            "Arrange its axes so.",
        ),
        (npy("(0, 3, 3)"), "an image at least in images, got shape (0, 3, 3). path: {path}. Save some."),
        (b"\x93NUMPY\x01\x00\x05\x00{1:2}", UNKNOWN),
        (npy("(-2, 3)"), UNKNOWN),
        (npy("(__import__('os'),)"), UNKNOWN),
        (b"", UNKNOWN),
    ],
    ids=range(12),  # not the whole content
)  # fmt: skip
def test_an_array_that_is_not_as_its_header_says_is_refused(tmp_path: Path, images: bytes, text: str) -> None:
    path = archive(tmp_path / "set.npz", images=images, labels=LABELS)
    with zipfile.ZipFile(path) as file:
        packed = file.getinfo("images.npy").compress_size
    start = len(npy("(2, 3, 3)"))
    facts = {"path": path, "packed": packed, "most": 1032 * packed, "whole": start + 18, "found": len(images)}
    refused(f"npz:{path}", f"npz expects {text.format(**facts)}")


def test_an_archive_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    start, end = "npz expects an archive of numpy.savez, got ", f". path: {path}. Save it again."
    for content, got in (
        (b"", "a file of 0 bytes"),
        (bytes(100), "a file that does not end as one"),
        (bytes(78) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 2**31, 0, 0), MANY_MEMBERS),
        (bytes(58) + b"PK\6\7" + bytes(16) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 46, 0, 0), MANY_MEMBERS),
        (bytes(78) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 46, 0, 0), "Bad magic number for central directory")
    ):  # fmt: skip
        path.write_bytes(content)
        refused(f"npz:{path}", f"{start}{got}{end}")
    archive(path, **{"../../evil": b"", "images": b""})
    refused(f"npz:{path}", f"{start}a member '../../evil.npy'{end}")
    archive(path, **{"/etc/passwd": b""})
    refused(f"npz:{path}", f"{start}a member '/etc/passwd.npy'{end}")
    archive(path, zipfile.ZIP_LZMA, images=b"")
    refused(f"npz:{path}", f"{start}a member 'images' that is encrypted or compressed otherwise than by deflate{end}")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("images.npy", b"")
    refused(f"npz:{path}", f"{start}a member 'images.npy' twice{end}")
    np.savez(path, pixels=[1])
    refused(
        f"npz:{path}",
        "npz expects arrays x_train, y_train, x_test and y_test, or images and labels, got pixels. path: "
        f"{path}. Name them so in numpy.savez.",
    )


def test_a_zip_bomb_is_left_at_what_its_header_says(tmp_path: Path) -> None:
    """The list of members claims as few bytes as the array has, the member goes on."""
    path = archive(tmp_path / "set.npz", images=npy("(2, 3, 3)", content=bytes(2**26)), labels=LABELS)
    size = struct.pack("<I", len(npy("(2, 3, 3)")) + 2**26)
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", len(npy("(2, 3, 3)")) + 18)))
    with memory.at_most(LITTLE // 2), pytest.raises(DataError) as error:
        open_data(f"npz:{path}")
    text = "npz expects an array of NumPy as images, got Bad CRC-32 for file 'images.npy'"
    assert str(error.value) == f"{text}. path: {path}. {AGAIN}"


def test_parts_of_an_npz_must_have_as_many_channels(tmp_path: Path) -> None:
    path, labels = tmp_path / "set.npz", [0, 1]
    np.savez(path, x_train=numbers(2, 4, 4), y_train=labels, x_test=numbers(2, 4, 4, 3), y_test=labels)
    refused(f"npz:{path}", f"npz expects as many channels in each part, got others. path: {path}. Save them alike.")


def test_labels_of_an_npz_must_fit(tmp_path: Path) -> None:
    path, images = tmp_path / "set.npz", numbers(4, 2, 2)
    for arrays, text in (
        ({"labels": [0, 1, 0]}, "as many labels as images, got 4 images and 3 labels in all. path: {path}. Save them "
         "together."),
        ({"labels": [0, -1, 0, 1]}, "labels from 0 to 2147483647, got others. path: {path}. Number the classes from 0 "
         "on."),
        ({"labels": np.zeros((4, 2), int)}, "labels of shape (N,), got (4, 2). path: {path}. Save a number for each "
         "image."),
        ({"labels": [0, 1, 0, 2], "classes": ["a", "b"]}, "labels from 0 to 1, as it names 2 classes, got 2. path: "
         "{path}. Save a name for each label."),
        ({"labels": [0, 1, 0, 1], "classes": ["a", "a"]}, "classes without repetitions, got a name twice. path: "
         "{path}. Name each class otherwise."),
        ({"labels": [0, 1, 0, 1], "classes": np.array(["a", None], object)}, f"classes of text, got elements O. "
         f"{CONVERT}"),
    ):  # fmt: skip
        np.savez(path, images=images, **arrays)
        with pytest.raises(DataError) as error:
            open_data(f"npz:{path}")
        assert str(error.value) == f"npz expects {text.format(path=path)}"


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_in_an_npz_give_the_same_data_or_a_data_error(tmp_path: Path, data: st.DataObject) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, images=numbers(4, 2, 2), labels=np.array([0, 1, 0, 1], np.uint8))
    content = bytearray(file.getvalue())
    path = tmp_path / "set.npz"
    path.write_bytes(content)
    whole = open_data(f"npz:{path}")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    refused_or_equal(f"npz:{path}", whole)


def test_no_memory_for_what_a_header_claims_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DEFLATE", 10**9)
    mnist(tmp_path, packed=True, train_images_idx3_ubyte=bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**15, 2**8, 2**8))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    refused(
        f"mnist:{tmp_path}",
        f"mnist expects 2147483648 bytes of memory for it, got too little memory. path: {path}. Keep larger sets as a "
        "folder of images (folder:DIR).",
    )
