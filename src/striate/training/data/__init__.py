"""Data sets of labelled images: what one is, the kinds there are, what each file is checked for, and batches of them.

``open_data("folder:photos")`` opens one. Files are data of whoever made them: every size is compared with the real file
before memory is taken, nothing is unpickled, and no link leads out of a folder.
"""

from .augmentation import Augmentation
from .dataset import DataSet, Decoded, Part, stratified
from .fingerprint import fingerprint
from .loader import Batch, Loader
from .preprocess import Preprocessing
from .shapes import make_shapes
from .spec import KINDS, open_data

__all__ = [
    "KINDS",
    "Augmentation",
    "Batch",
    "DataSet",
    "Decoded",
    "Loader",
    "Part",
    "Preprocessing",
    "fingerprint",
    "make_shapes",
    "open_data",
    "stratified",
]
