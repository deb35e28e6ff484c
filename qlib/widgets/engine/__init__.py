"""What quantizes and measures a bench's networks in the reader's browser.

``kernel.c`` and ``draw.c`` are compiled by ``python -m qlib.book.engine``, and what that gives stands beside
them. The scripts here run in a worker; `graph`, `ranges` and `bundle` write down what they need of qlib: the
network's operations, where quantizers go, weights, ranges and the fields of the configuration.
"""
