"""Mistakes in a network that can be seen before it is trained: the rules, and what they ask."""
