"""Run in the container's network: asks `digits` over REST and gRPC for a picture's digit."""

import argparse
import json
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton_grpc  # type: ignore[import-untyped]  # ships no types
import tritonclient.http as triton_http  # type: ignore[import-untyped]  # ships no types


def main() -> None:
    """Prints `{"http": digit, "grpc": digit}`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--http", required=True)
    parser.add_argument("--grpc", required=True)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    pixels = json.loads(options.picture.read_text())["inputs"][0]["data"]
    answers = {}
    for name, library, address in (
        ("http", triton_http, options.http),
        ("grpc", triton_grpc, options.grpc),
    ):
        image = library.InferInput("image", [1, 64], "FP32")
        image.set_data_from_numpy(np.array(pixels, np.float32).reshape(1, 64))
        client = library.InferenceServerClient(address)
        answers[name] = int(client.infer("digits", [image]).as_numpy("digit").reshape(-1)[0])
        client.close()
    print(json.dumps(answers))  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    main()
