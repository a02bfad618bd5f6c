"""Measurements of parts of the keeper, one module each, run by ``keeper bench``.

Each compares what it measured with a slow and plain computation of the same; a difference makes the
command end with 1. Times are of this machine; the ratios within one run are what counts.
"""
