"""Models made ready for use: what training needed and inference does not is merged away."""

from .._renamed import accept_old_names
from . import freeze
from .fold import FoldEntry, FoldReport, fold

__all__ = ["FoldEntry", "FoldReport", "fold", "freeze"]

accept_old_names(__name__)
