"""Data sets of labelled images: what one is, the kinds there are, and what each file is checked for.

``open_data("folder:photos")`` opens one. Files are data of whoever made them: every size is compared with the real file
before memory is taken, nothing is unpickled, and no link leads out of a folder.
"""

from .dataset import DataSet, Decoded, Part, stratified
from .digits import Split, digits
from .shapes import make_shapes
from .spec import KINDS, open_data

__all__ = ["KINDS", "DataSet", "Decoded", "Part", "Split", "digits", "make_shapes", "open_data", "stratified"]
