"""ONNX Runtime as every benchmark of it runs it."""

from __future__ import annotations

import onnxruntime


def session(model: bytes | str, written: str = "", **settings: str) -> onnxruntime.InferenceSession:
    """A session on one thread of the CPU, of a network or the path of one; the optimized graph goes to the
    file ``written``.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.optimized_model_filepath = written
    for name, setting in settings.items():
        options.add_session_config_entry(f"session.{name}", setting)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
