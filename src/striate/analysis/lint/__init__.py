"""Finds mistakes in a network before it is trained: the rules, and the queries that they use."""
