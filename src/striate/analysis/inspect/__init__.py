"""Implements :func:`striate.inspect`: cost, receptive field and memory of a network, layer by layer.

From the bottom up: fields and rows are computed from a recording; result stores them and answers queries; stage, words,
table, markdown, picture and page format them; report is a result with these formats; inspection creates one.
"""
