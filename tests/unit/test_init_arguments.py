"""The arguments of `stoker k8s init`: what they become, and what is refused."""

from pathlib import Path

import pytest
from stoker.app import DEMO
from stoker.arguments import UsageError
from stoker.deploy.base_location import CHECKOUT
from stoker.deploy.init_arguments import InitOptions, parse_init
from stoker.deploy.init_command import is_a_model, placed, pod_cpus
from stoker.deploy.overlay import ModelsPlace, components

from tests.broken_manifests import measurement


def options(*words: str) -> InitOptions:
    return parse_init([*words, "--output", "x"])


def test_without_options_two_to_ten_gpu_pods_with_the_demo_models_are_scaled_by_an_hpa() -> None:
    plain = options()
    assert (plain.wishes.device, plain.wishes.least, plain.wishes.most) == ("gpu", 2, 10)
    assert plain.overlay.models == ModelsPlace("demo")
    assert components(plain.overlay, plain.wishes) == ["gpu", "monitoring", "autoscaling-hpa"]


def test_a_source_comes_from_a_claim_unless_it_is_said_otherwise() -> None:
    assert options("models").overlay.models == ModelsPlace("pvc")
    place = options("models", "--models", "image:r.example:5000/m:1").overlay.models
    assert place == ModelsPlace("image", "r.example:5000/m:1")


def test_a_measurement_without_a_source_is_of_the_demo_or_of_models_in_a_claim() -> None:
    words = ("--measured", "measured.json")
    demo = measurement(models=sorted(each.name for each in (DEMO.iterdir())))
    assert placed(options(*words), demo).overlay.models == ModelsPlace("demo")
    mine = measurement(models=["simple", "resnet"])
    assert placed(options(*words), mine).overlay.models == ModelsPlace("pvc")
    baked = options(*words, "--models", "baked")
    assert placed(baked, mine) == baked
    with pytest.raises(UsageError, match="of the demo models, got resnet, simple"):
        placed(options(*words, "--models", "demo"), mine)


@pytest.mark.parametrize(
    ("words", "laid"),
    [
        (["--device", "cpu", "--autoscaler", "none"], ["monitoring"]),
        (["--gpu", "mig", "--monitoring", "annotations"], ["mig", "autoscaling-hpa"]),
        (["--gpu", "mig", "--monitoring", "scrape"], ["mig", "scrape", "autoscaling-hpa"]),
        (
            ["m", "--gpu", "dra", "--models", "s3:b/p", "--autoscaler", "keda", "--namespace", "n"],
            ["dra", "models-s3", "monitoring", "autoscaling-keda"],
        ),
        (["m", "--models", "baked", "--device", "cpu"], ["monitoring", "autoscaling-hpa"]),
    ],
)
def test_components_follow_from_the_options(words: list[str], laid: list[str]) -> None:
    parsed = options(*words)
    assert components(parsed.overlay, parsed.wishes) == laid


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--autoscaler", "keda"], "expected --namespace too"),
        (["--autoscaler", "none", "--min", "2"], "use --replicas"),
        (["--replicas", "2"], "expected --autoscaler none, or --min and --max"),
        (["--min", "3", "--max", "2"], "--max: expected at least --min, 3, got 2"),
        (["--min", "0"], "expected a number of at least 1, got '0'"),
        (["--drain-delay", "0"], "--drain-delay: expected a time above 0"),
        (["--drain-timeout", "soon"], "expected a duration"),
        (["--max-buffered-bytes", "x"], "expected a whole number of bytes"),
        (["--spare-gpu", "--device", "cpu"], "--spare-gpu: expected --device gpu"),
        (["--gpu", "mig", "--device", "cpu"], "--gpu mig: expected --device gpu, got cpu"),
        (["--models", "nfs"], "expected pvc"),
        (["--models", "demo:x"], "expected pvc"),
        (["--models", "pvc"], "expected a SOURCE to measure"),
        (["m", "--models", "demo"], "expected no SOURCE, got m"),
        (["m", "--models", "pvc:My Claim"], "expected a claim's name behind pvc:, got 'My Claim'"),
        (["m", "--models", "image:my image"], "expected an image behind image:"),
        (["m", "--models", "s3:/prefix"], "expected BUCKET/PREFIX behind s3:"),
        (["--image", "my stoker:1"], "expected an image, NAME:TAG or NAME@DIGEST, got"),
        (["--name", "Vision"], "expected a name"),
        (["--name", "a" * 48], "expected a name"),
        (["--namespace", "-"], "expected a namespace"),
        (["--demand-target", "1"], "expected a ratio above 0 and at most 0.9, got '1'"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_expected(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        options(*words)


def test_an_output_is_needed() -> None:
    with pytest.raises(UsageError, match="--output"):
        parse_init([])


def test_a_model_is_told_from_a_repository(tmp_path: Path) -> None:
    for file in ("a/model.onnx", "b/1/model.onnx", "c/m/1/model.onnx"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(b"")
    told = {each: is_a_model(tmp_path / each) for each in ("a/model.onnx", "a", "b", "c")}
    assert told == {"a/model.onnx": True, "a": True, "b": True, "c": False}


def test_the_measured_server_gets_the_processors_of_a_pod(tmp_path: Path) -> None:
    assert pod_cpus(CHECKOUT, "cpu") == 4
    assert pod_cpus(CHECKOUT, "gpu") == 8
    assert pod_cpus(tmp_path, "gpu") is None
