"""The benchmark: Pulltap and its peers in turns, on this machine, in one run (``./run.sh bench``).

``sides`` are the programs that are compared, ``measures`` what is done to each of them, ``table`` what came of it. The
load is a C program, ``load.c``, compiled at the start. docs/benchmarks.md says what is compared with what.
"""
