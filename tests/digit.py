"""The demo's call for a digit, as clients that others wrote make it."""

import json
from typing import Final

from stoker.app import DEMO

BODY: Final = DEMO.parent / "images" / "digit-7.json"
"""Of a picture of a 7."""
INFER: Final = "/v2/models/digits/infer"


def digit_of(answer: str) -> object:
    """The output `digit` of an answer in JSON: [7], if all is well."""
    outputs = {each["name"]: each["data"] for each in json.loads(answer)["outputs"]}
    return outputs["digit"]
