"""Operations: arguments checked and resolved, the method chosen, gradients and shapes registered. One file a family."""

from .._renamed import accept_old_names
from . import operator_rules as operator_rules

accept_old_names(__name__)
