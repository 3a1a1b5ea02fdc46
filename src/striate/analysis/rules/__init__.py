"""The rules, by what they are about. Importing them makes them known."""

from . import depth as depth
from . import head as head
from . import window as window
