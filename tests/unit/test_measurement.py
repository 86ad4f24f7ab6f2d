"""measured.json brings back what was measured, or says what is wrong with it."""

import json
from pathlib import Path

import pytest
from stoker.deploy.measurement import UnreadableMeasurement, from_json, read_measurement, to_json

from tests.broken_manifests import measurement


@pytest.mark.parametrize("on_gpu", [True, False])
def test_what_was_written_is_read(on_gpu: bool) -> None:
    measured = measurement(on_gpu=on_gpu, loaded_bytes=None)
    assert from_json(to_json(measured), "m.json") == measured


def test_an_older_file_tells_no_size_of_files_and_the_weights_stand_for_it() -> None:
    older = from_json(without("files_bytes"), "m.json")
    assert (older.files_bytes, older.download_bytes) == (0, 100 << 20)
    assert from_json(to_json(measurement(files_bytes=7)), "m.json").download_bytes == 7


def without(key: str) -> str:
    value = json.loads(to_json(measurement()))
    del value[key]
    return json.dumps(value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "got no JSON"),
        ("[]", "of form 1, got form None"),
        ('{"form": 2}', "of form 1, got form 2"),
        (without("start_s"), "whose field 'start_s' is wrong"),
        (to_json(measurement()).replace("6.0", '"six"'), "is wrong"),
        (to_json(measurement()).replace('"models": [', '"models": [3, '), "is wrong"),
    ],
)
def test_another_file_is_refused_with_what_was_expected(content: str, said: str) -> None:
    with pytest.raises(UnreadableMeasurement, match=said) as caught:
        from_json(content, "m.json")
    assert str(caught.value).startswith("m.json: expected the measured.json of `stoker k8s init`")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableMeasurement, match="No such file"):
        read_measurement(tmp_path / "m.json")


def test_gpu_memory_is_the_sum_of_the_models_on_gpus_where_all_of_it_is_known() -> None:
    assert measurement(loaded_bytes=5).gpu_bytes == 5 + (1 << 30)
    assert measurement(loaded_bytes=None).gpu_bytes is None
    assert measurement(on_gpu=False).gpu_bytes is None
