"""Taking a quantized network away: as ONNX with QuantizeLinear and DequantizeLinear (`to_onnx`), or as
safetensors and its configuration (`saved`).
"""

from .changes import Change, in_words
from .saved import load_quantized, save_quantized
from .to_onnx import export_float, export_onnx

__all__ = ["Change", "export_float", "export_onnx", "in_words", "load_quantized", "save_quantized"]
