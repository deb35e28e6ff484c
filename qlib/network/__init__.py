"""Anybody's network, read: traced, rewritten into a form that can be quantized, classified, and compared with
what was given.
"""

from .copies import evaluation_copy
from .network import Network, Operation, read
from .operations import Kind
from .verification import verify

__all__ = ["Kind", "Network", "Operation", "evaluation_copy", "read", "verify"]
