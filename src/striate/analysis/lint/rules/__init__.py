"""The lint rules, grouped by subject. Importing a module registers its rules."""

from . import decay as decay
from . import depth as depth
from . import head as head
from . import mode as mode
from . import norm as norm
from . import window as window
