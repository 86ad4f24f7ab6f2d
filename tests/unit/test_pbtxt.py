"""Reading text format: all problems together, each with its line and field."""

import random
from pathlib import Path

from google.protobuf import text_format
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stoker.protocol.model_config_pb2 import ModelConfig
from stoker.repository import pbtxt
from stoker.repository.config_checks import check_config
from stoker.repository.obedience import check_obedience

WHOLE = """
# a comment { [ "
name: 'm'  max_batch_size: 0x8;
input [
  { name: "x" data_type: TYPE_FP32, dims: [ -1, 3 ] reshape { shape: [ ] } },
  { name: "y" data_type: TYPE_STRING dims: 1 dims: 2 }
]
output < name: "z", data_type: 11, dims: [ 1 ] >
parameters { key: "k" value: { string_value: "a" "b" } }
parameters [ { key: 'l' value { string_value: '#' } } ]
dynamic_batching: { preferred_batch_size: [ 4, 8 ]; max_queue_delay_microseconds: 100 }
instance_group [ { kind: KIND_CPU count: 2 } ]
"""


def read(text: str | bytes) -> tuple[ModelConfig, list[str]]:
    message = ModelConfig()
    content = text if isinstance(text, bytes) else text.encode()
    return message, pbtxt.read(content, message, file="m/config.pbtxt").problems


def test_every_form_that_real_files_use_is_read_as_protobuf_reads_it() -> None:
    message, problems = read(WHOLE)
    assert problems == []
    assert message == text_format.Parse(WHOLE, ModelConfig())


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter() -> None:
    message, problems = read(b"\xef\xbb\xbfname: 'm'\r\nmax_batch_size: 2\r\n")
    assert (message.name, message.max_batch_size, problems) == ("m", 2, [])


def test_all_unknown_fields_are_told_with_line_field_and_the_likely_name() -> None:
    message, problems = read(
        'max_batchsize: 8\ninput [\n  { name: "x" },\n  { name: "y" shape: [1] }\n]\n'
        "made_up { a { b: [ {} ] } }\nplatform: 'onnxruntime_onnx'"
    )
    assert problems == [
        "m/config.pbtxt:1: max_batchsize: unknown field; did you mean 'max_batch_size'?",
        "m/config.pbtxt:4: input.shape: unknown field; did you mean 'reshape'?",
        "m/config.pbtxt:6: made_up: unknown field",
    ]
    assert message.platform == "onnxruntime_onnx"
    assert [each.name for each in message.input] == ["x", "y"]


def test_all_unreadable_values_are_told_with_what_was_expected() -> None:
    _, problems = read(
        'max_batch_size: "eight"\ninstance_group [ { count: 1 }, { kind: KIND_TPU } ]\n'
        "dynamic_batching {\n  max_queue_delay_microseconds: -5\n preserve_ordering: maybe }"
    )
    assert problems == [
        'm/config.pbtxt:1: max_batch_size: expected a 32-bit integer, got "eight"',
        "m/config.pbtxt:2: instance_group[1].kind: expected one of KIND_AUTO, KIND_GPU, "
        "KIND_CPU, KIND_MODEL, got KIND_TPU",
        "m/config.pbtxt:4: dynamic_batching.max_queue_delay_microseconds: expected an integer "
        "from 0 to 18446744073709551615, got -5",
        "m/config.pbtxt:5: dynamic_batching.preserve_ordering: expected true or false, got maybe",
    ]


def test_a_field_given_twice_is_a_problem_at_the_second_place() -> None:
    _, problems = read("platform: 'a'\nplatform: 'b'")
    assert len(problems) == 1
    assert problems[0].startswith("m/config.pbtxt:2: platform")


def test_two_schedulers_are_a_contradiction() -> None:
    _, problems = read("dynamic_batching { }\nsequence_batching { }")
    assert len(problems) == 1
    assert problems[0].startswith("m/config.pbtxt:2: sequence_batching: ")


def test_a_syntax_error_is_told_once_with_its_line() -> None:
    _, problems = read('name: "m"\ninput [ { name: "x" }\noutput { }')
    assert problems == ['m/config.pbtxt:3: Expected ","']


def test_bytes_that_are_not_text_are_told_with_their_line() -> None:
    _, problems = read(b"name: 'm'\nplatform: '\xff'")
    assert problems == ["m/config.pbtxt:2: expected UTF-8 text, got other bytes"]


def test_deep_nesting_is_refused_without_deep_recursion() -> None:
    _, problems = read("a {" * 20_000)
    assert len(problems) == 1


def test_a_line_is_found_for_list_items_map_entries_and_missing_fields() -> None:
    places = pbtxt.read(WHOLE.encode(), ModelConfig(), file="f").places
    assert places is not None
    assert places.line_of(("input", 1, "dims")) == 6
    assert places.line_of(("input", 1, "reshape")) == 6
    assert places.line_of(("parameters", '"l"', "value")) == 10
    assert places.line_of(("instance_group", 0, "gpus")) == 12
    assert places.line_of(("version_policy",)) is None


WORDS = (
    "name input dims parameters key value kind unknown 1 -1 'x' \"\\377\" TYPE_FP32 { [ {name:'x'}"
)
PIECES = st.lists(st.sampled_from([*WORDS.split(), *"{}[]<>:,;#\"'\\\n -."]), max_size=40).map(
    " ".join
)


@given(st.one_of(st.binary(max_size=200), PIECES.map(str.encode)))
@example(b"name: '\\ud800'")
@example(b"max_batch_size: " + b"9" * 5000)
@example(b"name: '\\")
@settings(max_examples=30, deadline=None)
def test_any_bytes_give_a_message_or_problems_never_an_exception(content: bytes) -> None:
    message = ModelConfig()
    report = pbtxt.read(content, message, file="m/config.pbtxt")
    check_config(message, report, name="m", folder=Path("nowhere"))
    check_obedience(message, report)
    assert all(problem.startswith("m/config.pbtxt") for problem in report.problems)


@given(st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_damaged_file_never_raises_and_an_intact_reading_equals_protobufs(seed: int) -> None:
    chance = random.Random(seed)
    text = list(WHOLE)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(text))
        text[at : at + chance.randrange(3)] = chance.choice(["", "{", "}", "[", "]", "'", "x", "#"])
    message, problems = read("".join(text))
    try:
        expected = text_format.Parse("".join(text), ModelConfig())
    except text_format.ParseError:
        assert problems
    else:
        assert (message, problems) == (expected, [])
