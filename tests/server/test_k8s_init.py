"""`stoker k8s init` starts a real server with the user's models, and writes what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from stoker.deploy.measurement import to_json
from stoker.deploy.measuring import MeasuringFailed, measure

from tests.broken_manifests import measurement
from tests.conftest import PATIENCE
from tests.models import NOT_A_MODEL, ModelEntry, mlp, write_model, write_repository


def init(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stoker", "k8s", "init", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.slow
def test_a_model_is_measured_and_the_overlay_has_its_numbers(tmp_path: Path) -> None:
    model = write_model(tmp_path / "classifier.onnx", mlp(width=256, hidden=1024, classes=10))
    output = tmp_path / "mine"
    done = init(model, "--output", output, "--device", "cpu", "--drain-timeout", "10s")
    assert (done.returncode, done.stderr) == (0, "")
    measured = json.loads((output / "measured.json").read_text())
    (found,) = measured["models"]
    assert (found["name"], found["devices"], found["instances"]) == ("classifier", ["cpu"], 1)
    assert found["weights_bytes"] >= 4 * 256 * 1024
    assert (found["input_row_bytes"], found["output_row_bytes"]) == (4 * 256, 4 * 10)
    assert found["row_seconds"] > 0
    assert found["batch_limit_rows"] > 1
    assert 0 < found["load_s"] < measured["start_s"]
    assert measured["peak_bytes"] > found["weights_bytes"]
    assert measured["on_gpu"] is False
    assert measured["files_bytes"] == model.stat().st_size

    deployment = yaml.safe_load((output / "deployment.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 40
    (container,) = pod["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables == {
        "STOKER_MAX_BUFFERED_BYTES": "256MiB",
        "STOKER_DRAIN_DELAY": "5s",
        "STOKER_DRAIN_TIMEOUT": "10s",
        "STOKER_MODEL_NAME": "classifier",
    }
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 3 * measured["start_s"]
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) << 20
    assert limit > measured["peak_bytes"] + (512 << 20)

    again = init(model, "--output", output, "--device", "cpu")
    assert again.returncode == 2
    assert "--force writes over it" in again.stderr


@pytest.mark.slow
def test_models_that_cannot_be_served_are_told_and_nothing_is_written(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_repository(repository, {"good": ModelEntry(mlp()), "broken": ModelEntry(NOT_A_MODEL)})
    done = init(repository, "--output", tmp_path / "mine", "--device", "cpu")
    assert done.returncode == 1
    assert "these models are not served; `stoker check` tells more" in done.stderr
    assert "broken" in done.stderr
    assert not (tmp_path / "mine").exists()


def test_a_source_that_is_not_there_is_told() -> None:
    with pytest.raises(MeasuringFailed, match="absent"):
        measure(["absent"], device="cpu")


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A measurement that is there, so that no server has to start."""
    file = tmp_path / "measured.json"
    file.write_text(to_json(measurement()))
    return file


def test_what_a_bucket_still_needs_is_told(measured: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["models", "--measured", measured, "--models", "s3:bucket/models"]
    done = init(*words, "--device", "cpu", "--output", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    (left,) = [each for each in done.stdout.splitlines() if "components/models-s3" in each]
    assert "credentials" in left
    assert "region" in left


def left(told: str) -> list[str]:
    return [
        each.removeprefix("left      ") for each in told.splitlines() if each.startswith("left ")
    ]


def test_what_a_claim_has_to_hold_is_told_and_the_claim_written(tmp_path: Path) -> None:
    measured = tmp_path / "measured.json"
    measured.write_text(to_json(measurement(files_bytes=30 << 30)))
    words: list[str | Path] = ["--measured", measured, "--namespace", "ml", "--force"]
    output = tmp_path / "mine"
    done = init(*words, "--output", output)
    assert done.returncode == 0, done.stderr
    claim = output / "claim.yaml"
    (said,) = [each for each in left(done.stdout) if "stoker-models" in each]
    assert said.startswith("the claim stoker-models, of 45Gi or more")
    assert f"kubectl apply -f {claim}" in said
    written = yaml.safe_load(claim.read_text())
    assert written["metadata"] == {"name": "stoker-models", "namespace": "ml"}
    assert written["spec"]["resources"]["requests"] == {"storage": "45Gi"}
    assert "claim.yaml" not in yaml.safe_load((output / "kustomization.yaml").read_text())
    done = init(*words, "--models", "pvc:mine", "--output", output)
    said = f"45Gi or more in the claim mine, with these models in it ({claim})"
    assert said in left(done.stdout)
    assert yaml.safe_load(claim.read_text())["metadata"]["name"] == "mine"


def test_a_model_whose_form_nobody_saw_is_told(measured: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["--measured", measured, "--device", "cpu", "--force"]
    words += ["--output", tmp_path / "mine"]
    asked = "--model-name resnet, where the pods get that model itself and no repository"
    assert asked in left(init(*words).stdout)
    assert asked not in left(init(*words, "--model-name", "resnet").stdout)
    assert asked not in left(init("m", *words).stdout)


def test_a_size_that_nobody_looked_at_is_told(measured: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["--measured", measured, "--device", "cpu", "--force"]
    for models in ("pvc", "s3:bucket/prefix"):
        done = init(*words, "--models", models, "--output", tmp_path / "mine")
        assert any("which was not looked at: 20Gi" in each for each in left(done.stdout)), models


def test_the_address_of_prometheus_that_was_taken_is_told(measured: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["--measured", measured, "--autoscaler", "keda", "--force"]
    words += ["--namespace", "ml", "--output", tmp_path / "mine"]
    assumed = (
        "--prometheus: its address, taken to be http://prometheus-operated.monitoring.svc:9090"
    )
    assert assumed in left(init(*words).stdout)
    said = left(init(*words, "--prometheus", "http://mine:9090").stdout)
    assert not [each for each in said if each.startswith("--prometheus")]


def test_a_mig_profile_is_told_with_the_cards_that_have_it(measured: Path, tmp_path: Path) -> None:
    done = init("m", "--measured", measured, "--gpu", "mig", "--output", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    (line,) = [each for each in done.stdout.splitlines() if each.startswith("left      nodes")]
    assert line == (
        "left      nodes that have nvidia.com/mig-1g.5gb, of MIG 1g.5gb of an A100 40 GB;"
    )


def test_words_that_yaml_takes_for_something_else_stay_words(
    measured: Path, tmp_path: Path
) -> None:
    output = tmp_path / "mine"
    words: list[str | Path] = ["m", "--measured", measured]
    words += ["--device", "cpu", "--output", output]
    address = "http://prometheus:9090/?a=b: c #d"
    done = init(
        *words,
        *("--namespace", "on", "--name", "no", "--models", "pvc:1e3"),
        *("--autoscaler", "keda", "--prometheus", address),
    )
    assert (done.returncode, done.stderr) == (0, "")
    kustomization = yaml.safe_load((output / "kustomization.yaml").read_text())
    assert kustomization["namespace"] == "on"
    (pairs,) = [each["pairs"] for each in kustomization["labels"]]
    assert pairs == {"app.kubernetes.io/instance": "no"}
    (claim,) = [each["patch"] for each in kustomization["patches"] if "patch" in each]
    (volume,) = yaml.safe_load(claim)["spec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"] == {"claimName": "1e3"}
    operations = yaml.safe_load((output / "autoscaler.yaml").read_text())
    addresses = [each["value"] for each in operations if each["path"].endswith("serverAddress")]
    assert addresses == [address] * 2


def test_a_folder_that_cannot_be_written_is_told(measured: Path) -> None:
    done = init("m", "--measured", measured, "--device", "cpu", "--output", "/proc/mine")
    assert done.returncode == 2
    assert "--output: expected a folder that can be written, got /proc/mine" in done.stderr
    assert "Traceback" not in done.stderr
