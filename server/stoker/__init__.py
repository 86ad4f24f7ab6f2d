"""Stoker serves ONNX models on NVIDIA GPUs over gRPC and REST."""

__version__ = "0.1.0"
