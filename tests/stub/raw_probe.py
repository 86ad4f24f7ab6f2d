"""Asks ONNX Runtime itself, past our code: what a session with these providers and options becomes.

Reads a JSON list of requests from its input and prints the answers as one line of JSON:
    {"providers": [["CUDAExecutionProvider", {...}], ...], "fallback": false, "model": "relu",
     "entries": {...}, "preload": true, "run": true}
"""

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from stoker.runtime.onnx import library

from tests.stub import stub_models


def answer(request: Mapping[str, Any]) -> dict[str, object]:
    """What became of one request."""
    ort = library()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for key, value in request.get("entries", {}).items():
        options.add_session_config_entry(key, value)
    model: onnx.ModelProto = getattr(stub_models, request.get("model", "relu"))()
    given = request["providers"]
    providers = None if given is None else [(name, each) if each else name for name, each in given]
    said = io.StringIO()
    found: dict[str, object] = {}
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            if request.get("preload", True):
                ort.preload_dlls(cudnn=request.get("cudnn", True))
            session = ort.InferenceSession(
                model.SerializeToString(),
                options,
                providers=providers,
                enable_fallback=int(request.get("fallback", False)),
            )
            found["providers"] = session.get_providers()
            found["options"] = session.get_provider_options()
            found["nodes"] = [
                [part.ep_name, [node.op_type for node in part.get_nodes()]]
                for part in session.get_provider_graph_assignment_info()
            ]
            if request.get("run"):
                feeds = {
                    each.name: np.ones([1 if isinstance(n, str) else n for n in each.shape], "f4")
                    for each in session.get_inputs()
                }
                session.run(None, feeds)
    except Exception as error:
        found |= {"class": type(error).__name__, "text": str(error)}
    return found | {"said": said.getvalue(), "warned": [str(each.message) for each in warned]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps([answer(each) for each in json.load(sys.stdin)]) + "\n")
