"""What one call of a live model does: the recording, and what is known of each operator in it.

Stands below the layers: a recording holds modules without knowing their classes. ``striate.inspect``, lint, fold,
accelerate and the profile read it.
"""
