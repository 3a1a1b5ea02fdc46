"""The handwritten digits that come with scikit-learn: a data set that needs no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import DataError, build
from ...extras import needs
from .dataset import DataSet, Part, Request, check_seed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Split", "digits", "read"]

LARGEST_SIZE_PX = 128  # 1,797 images of 128×128 floats take 118 MB; the original scans have 32×32 pixels


@dataclass(frozen=True)
class Split:
    """A data set in two parts, one for training and one for testing.

    Shapes: images ``(N, C, H, W)`` float32, labels ``(N,)`` int64.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits(size: int = 28, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """The 1,797 handwritten digits of UCI Optdigits that come with scikit-learn, split so that each digit has the
    same share in both parts.

    Pixels 0 … 16 become 0 … 1; the 8×8 images are resized bilinearly.

    size: height and width of an image [px], 8 to 128; test_fraction: the fraction held out for testing, strictly
    between 0 and 1, such that each of the ten digits is in both parts; seed: of the shuffle, 0 to 2³²-1.

    Returns images ``(N, 1, size, size)`` from 0 to 1, labels ``(N,)`` from 0 to 9; 1,437 and 360 of them by default.
    Raises DataError for another size, fraction or seed.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

    >>> split = digits()
    >>> split.train_images.shape, split.test_images.shape
    (torch.Size([1437, 1, 28, 28]), torch.Size([360, 1, 28, 28]))
    >>> split.test_labels.bincount().tolist()
    [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= LARGEST_SIZE_PX:
        hint = "Use size=28 for LeNet-5, size=8 for the stored images."
        raise DataError(build("digits", f"a size from 8 to {LARGEST_SIZE_PX} px", repr(size), hint=hint))
    if isinstance(test_fraction, bool) or not isinstance(test_fraction, (int, float)) or not 0 < test_fraction < 1:
        raise DataError(
            build("digits", "a test_fraction between 0 and 1", repr(test_fraction), hint="Use 0.2 to hold out a fifth.")
        )
    check_seed("digits", seed)
    needs("digits", "sklearn")
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, classes = load_digits(return_X_y=True)
    try:
        train, test = train_test_split(
            range(len(classes)), test_size=float(test_fraction), stratify=classes, random_state=seed
        )
    except ValueError:
        expects, hint = "a test_fraction that leaves ten images or more in both parts", "Use 0.2 to hold out a fifth."
        raise DataError(build("digits", expects, test_fraction, images=len(classes), hint=hint)) from None
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    if size != 8:
        images = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(classes).long()
    return Split(images[train], labels[train], images[test], labels[test])


def read(request: Request) -> DataSet:
    """The digits as a data set: 28×28 pixels, each of the 256 steps from 0 to 1, in the parts of :func:`digits`.

    >>> read(Request("digits")).parts["train"].images.shape
    torch.Size([1437, 1, 28, 28])
    """
    import torch

    split = digits(28, seed=request.seed)
    parts = {
        "train": Part((255 * split.train_images).round().to(torch.uint8), split.train_labels),
        "test": Part((255 * split.test_images).round().to(torch.uint8), split.test_labels),
    }
    return DataSet("digits", tuple("0123456789"), parts)
