"""Experiments on the simulator: policies on the same requests, seed by seed.

`python -m experiments run` (with `benchmarks` on the path; `make bench` does it) runs every cell
that has no result yet, `python -m experiments report` writes the page and its plots from them.
"""
