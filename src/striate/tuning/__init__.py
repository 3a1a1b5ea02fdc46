"""Which method of convolution was measured to be fastest where: tables of measurements, by kind of processor.

tables/ holds them, as <maker>-<family>-<instruction set>.csv; select.py chooses the table of this machine and finds the
row of a convolution; measure.py makes a table (``python benchmarks/tune.py``). Results never depend on timing: tables
are files, and nothing is measured while striate runs.
"""
