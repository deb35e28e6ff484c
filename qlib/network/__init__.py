"""Anybody's network, read: traced, rewritten into a form that can be quantized, classified, and compared with what was given."""

from .network import Network, Operation, read
from .operations import Kind
from .trace import evaluation_copy
from .verification import verify

__all__ = ["Kind", "Network", "Operation", "evaluation_copy", "read", "verify"]
