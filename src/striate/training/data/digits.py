"""The handwritten digits that come with scikit-learn: a data set that needs no download."""

from __future__ import annotations

from ...extras import needs
from .dataset import TEST_FRACTION, DataSet, Part, Request

__all__ = ["parts", "read"]

SIZE_PX = 28  # what LeNet-5 takes
STORED_PX, LARGEST = 8, 16  # the side of the images of scikit-learn, and their largest value


def read(request: Request) -> DataSet:
    """The 1,797 handwritten digits of UCI Optdigits: 8×8 pixels of 17 steps, resized bilinearly to 28×28 of 256.

    A fifth is held out for testing, with the same share of each digit, by the seed: 360 images, and 1,437 are left.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.

    >>> data = read(Request("digits"))
    >>> data.parts["train"].images.shape, data.parts["test"].labels.bincount().tolist()
    (torch.Size([1437, 1, 28, 28]), [36, 36, 35, 37, 36, 37, 36, 36, 35, 36])
    """
    return DataSet("digits", tuple("0123456789"), parts(SIZE_PX, request.seed))


def parts(size: int, seed: int) -> dict[str, Part]:
    """The training and the test part of the digits, of ``size`` pixels a side; 8 is the size they were stored with.

    >>> images = parts(8, seed=0)["train"].images
    >>> images.shape, images.max().item()
    (torch.Size([1437, 1, 8, 8]), 255)
    """
    needs("digits", "sklearn")
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    split = train_test_split(
        range(len(digits)), test_size=TEST_FRACTION, stratify=digits, random_state=seed
    )
    images = torch.from_numpy(pixels).float().reshape(-1, 1, STORED_PX, STORED_PX) / LARGEST
    images = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    images, labels = (255 * images).round().to(torch.uint8), torch.from_numpy(digits).long()
    return {name: Part(images[chosen], labels[chosen]) for name, chosen in zip(("train", "test"), split, strict=True)}
