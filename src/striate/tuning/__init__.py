"""Tables of measurements that say which method computes which convolutions fastest, one for each kind of processor.

tables/ holds them, as <maker>-<family>-<instruction set>.csv; select.py chooses the table of this machine and finds the
row of a convolution; measure.py makes a table (``python benchmarks/tune.py``). Results never depend on timing: tables
are files, and nothing is measured while striate runs.
"""
