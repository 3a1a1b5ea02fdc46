"""Records what one call of a live model does, and describes each operator in the recording.

This package does not depend on ``striate.nn``: a recording holds modules without knowing their classes.
``striate.inspect``, lint, fold, accelerate and the profile use it.
"""
