"""Operations: arguments checked and resolved, the method chosen, gradients and shapes registered. One file a family."""

from . import operator_rules as operator_rules
