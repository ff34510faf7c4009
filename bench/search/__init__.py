"""Filtered search in a table of a million vectors: `uv run python -m bench.search [--rows N] [--vectors FILE]`.

Users of 10, 1,000 and 50,000 passages lie in one table among others', by default a million passages in all. The
passages of these three are made-up sentences, embedded by the packaged model; embedding 50,000 takes some minutes on
two cores, and `--vectors FILE` keeps and reuses them. Those of all others are sums of two of these vectors, made in the
server, which takes about a minute and 3 GB of disk, given back at the end.

Each user is asked new sentences, in three scopes: everything, the documents of one collection (one passage in fifty),
and one conversation's own path. What is measured is `Recall.pool`, statement and reading of the answer, without the
embedding of the question, right after the filling and a VACUUM ANALYZE, as autovacuum does it. Each answer's eight
nearest are compared with those of an exact search in numpy, over the same half-precision vectors; an answer that holds
fewer than eight although more are in scope has under-returned. The largest user is also searched through indexes of the
user's own, as `chatrpc index` makes them.

Bars: recall@8 at least 0.99, nothing under-returned, p99 at most 25 ms. The tier chosen, the bytes that a message takes
and the time that the indexes take to build are printed beside them.
"""
