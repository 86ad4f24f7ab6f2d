"""`stoker k8s` and what else is in this repository agree: manifests, documents, image, server."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import kubernetes_validate  # type: ignore[import-untyped]  # annotated, but not marked as typed
import pytest
from stoker import allocator
from stoker.cli import BAD_USAGE, DONE, FAILED, main
from stoker.deploy import (
    base_location,
    image,
    memory_need,
    models_volume,
    overlay_patches,
    quantity,
    sizing,
)
from stoker.deploy.lint import lint
from stoker.deploy.manifest import Manifest, at, objects, parse_manifests, strings, text
from stoker.deploy.measurement import to_json
from stoker.deploy.quantity import parse_quantity
from stoker.deploy.rule_table import RULES
from stoker.engine import outputs
from stoker.settings import Settings

from scripts import lint_table
from tests.broken_manifests import as_yaml, edited, measurement, variable
from tests.contract.cel_rules import selects_device
from tests.contract.manifests import K8S, ROOT, TARGETS, render
from tests.tools import require_tool

KSERVE: Final = tuple(
    sorted(str(each.parent.relative_to(K8S)) for each in K8S.glob("kserve/**/kustomization.yaml"))
)
BUILT_IN: Final = re.compile(r"v1|[a-z]+/v[0-9]+|.*\.k8s\.io/.*")
WITHOUT_GPU: Final = ("--device", "cpu")
NAMED: Final = ("--name", "vision", "--namespace", "ml")
PLACES: Final = ("pvc", "pvc:mine", "s3:bucket/prefix", "image:r.example/models:1", "baked")

NO_REGISTRY: Final = "image-without-registry"
LEFT_TO_SAY: Final = {
    "components/models-s3": ["placeholder-left"],
    "components/models-image-volume": ["image-not-pinned"],
}
"""Where the models are."""

every_init = pytest.mark.parametrize(
    "words",
    [
        (),
        WITHOUT_GPU,
        ("--gpu", "mig"),
        ("--gpu", "dra", *NAMED),
        ("--autoscaler", "keda", "--prometheus", "http://prometheus:9090", *NAMED),
        ("--autoscaler", "none", "--spare-gpu", "--replicas", "1"),
        (*WITHOUT_GPU, "--autoscaler", "none", "--replicas", "1"),
        ("--monitoring", "scrape", *NAMED),
        ("--monitoring", "annotations", "--drain-timeout", "2m", "--min", "3", "--max", "3"),
        *(("--models", place, *NAMED) for place in PLACES),
    ],
    ids=" ".join,
)


@pytest.mark.parametrize("target", [*TARGETS, *KSERVE])
def test_our_own_manifests_have_no_finding_but_what_only_a_user_can_say(
    target: str,
) -> None:
    manifests = [Manifest(dict(each), target) for each in render(target)]
    found = lint(manifests)
    told = [f"{each.rule.id}: {each.hit.manifest} {each.hit.found}" for each in found]
    # On a laptop's cluster it is loaded by hand: overlays/dev accepts it.
    expected = set() if target == "overlays/dev" else {NO_REGISTRY, *LEFT_TO_SAY.get(target, ())}
    assert {each.rule.id for each in found} == expected, told


@pytest.mark.parametrize("file", sorted(K8S.glob("kserve/examples/*.yaml")), ids=lambda f: f.stem)
def test_our_examples_for_kserve_have_no_finding_with_the_runtimes_they_use(file: Path) -> None:
    runtimes = [Manifest(dict(each), "kserve") for each in render("kserve")]
    manifests = [*runtimes, *parse_manifests(file.read_text(), file.name)]
    found = lint(manifests, ignored=[NO_REGISTRY])
    assert [f"{each.rule.id}: {each.hit.found}" for each in found] == []


@pytest.mark.slow
def test_tracing_is_judged_by_the_image_and_not_by_the_machine_that_lints(tmp_path: Path) -> None:
    file = tmp_path / "traced.yaml"
    file.write_text(as_yaml(edited(variable("STOKER_TRACING", "true"))))
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("")  # in front of the real packages
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    def run(*words: str, **variables: str) -> int:
        command = [sys.executable, "-m", "stoker", *words]
        environment = {**os.environ, "PYTHONPATH": path, **variables}
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    assert run("serve", STOKER_TRACING="true") == BAD_USAGE, "the packages are here"
    assert run("k8s", "lint", "--strict", str(file)) == DONE


def test_there_are_manifests_to_look_at() -> None:
    assert {"overlays/dev", "overlays/gpu", "overlays/cpu", "overlays/production"} <= set(TARGETS)
    assert len(KSERVE) >= 2


def kustomized(folder: Path) -> list[Manifest]:
    """What kubectl makes of a folder; a warning fails the test."""
    command = [require_tool("kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return parse_manifests(done.stdout, str(folder))


def initialised(folder: Path, *words: str) -> Path:
    """What `stoker k8s init` writes for made-up measurements of a CPU."""
    file = folder / "measured.json"
    file.write_text(to_json(measurement(on_gpu=False)))
    output = folder / "mine"
    assert main(["k8s", "init", "--measured", str(file), "--output", str(output), *words]) == DONE
    return output


@every_init
def test_what_init_writes_renders_is_valid_and_has_no_finding(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    manifests = kustomized(initialised(tmp_path, *words))
    measured = measurement(on_gpu=False)
    found = lint(manifests, measured=measured)
    # No --image is given: what is left to say is found too.
    assert {each.rule.id for each in found} == {NO_REGISTRY}, found
    for each in manifests:
        if BUILT_IN.fullmatch(text(each.value, "apiVersion")):
            assert kubernetes_validate.validate(each.value, "1.34", strict=True) == "1.34"


def test_a_single_gpu_pod_without_a_spare_gpu_has_the_gap_that_init_speaks_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = initialised(tmp_path, "--autoscaler", "none", "--replicas", "1")
    assert "each rollout has a gap" in capsys.readouterr().out
    words = (output / "deployment.yaml").read_text().replace("#", " ").split()
    assert "each rollout has a gap" in " ".join(words)
    found = lint(kustomized(output))
    assert [each.rule.id for each in found] == [NO_REGISTRY, "rollout-gap"]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [each for each in manifests if each.kind == kind]
    return found


def test_a_name_reaches_every_object_selector_and_reference(tmp_path: Path) -> None:
    words = ("--gpu", "dra", "--autoscaler", "keda", *NAMED)
    manifests = kustomized(initialised(tmp_path, *words))
    assert {each.namespace for each in manifests} == {"ml"}
    assert all(each.name.startswith("vision-stoker") for each in manifests)
    deployment, scaled = one(manifests, "Deployment"), one(manifests, "ScaledObject")
    selector = strings(deployment.value, "spec", "selector", "matchLabels")
    assert selector["app.kubernetes.io/instance"] == "vision"
    assert text(scaled.value, "spec", "scaleTargetRef", "name") == deployment.name
    claim = text(
        deployment.value,
        *("spec", "template", "spec", "resourceClaims", 0, "resourceClaimTemplateName"),
    )
    assert claim == one(manifests, "ResourceClaimTemplate").name
    query = text(scaled.value, "spec", "triggers", 0, "metadata", "query")
    assert query == 'sum(stoker_demand_ratio{namespace="ml",pod=~"vision-stoker-.*"})'


def test_nodes_with_too_small_a_gpu_are_left_out(tmp_path: Path) -> None:
    deployment = one(kustomized(initialised(tmp_path)), "Deployment")
    terms = at(
        deployment.value,
        *("spec", "template", "spec", "affinity", "nodeAffinity"),
        *("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"),
    )
    assert isinstance(terms, list)
    needed = [
        f"{each}" for each in terms if "'nvidia.com/gpu.memory', 'operator': 'Gt'" in f"{each}"
    ]
    assert len(needed) == len(terms) - 1  # the last is for nodes without labels
    assert all("['1624']" in each for each in needed)  # 1 GiB, and 600 MiB for CUDA's context


def test_a_download_has_room_in_its_volume_and_in_the_pods_limit(tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    file.write_text(to_json(measurement(files_bytes=30 * quantity.GIB)))
    words = ["--measured", str(file), "--models", "s3:bucket/prefix"]
    assert main(["k8s", "init", *words, "--output", str(tmp_path / "mine")]) == DONE
    pod = at(one(kustomized(tmp_path / "mine"), "Deployment").value, "spec", "template", "spec")
    (volume,) = [each for each in objects(pod, "volumes") if each["name"] == "models"]
    assert text(volume, "emptyDir", "sizeLimit") == "45Gi"
    (download,) = objects(pod, "initContainers")
    limit = parse_quantity(download, "resources", "limits", "ephemeral-storage")
    sizes = (
        parse_quantity(each, "emptyDir", "sizeLimit")
        for each in objects(pod, "volumes")
        if "emptyDir" in each
    )
    assert limit is not None
    assert limit > sum(each for each in sizes if each is not None)
    assert text(download, "resources", "requests", "ephemeral-storage") == "30Gi"


def test_without_a_measurement_a_download_has_what_the_component_has(tmp_path: Path) -> None:
    component = one(
        [Manifest(dict(each), "s3") for each in render("components/models-s3")], "Deployment"
    )
    words = (*WITHOUT_GPU, "--models", "s3:bucket/prefix")
    overlay = one(kustomized(initialised(tmp_path, *words)), "Deployment")
    for path in (
        ("volumes", 3, "emptyDir", "sizeLimit"),
        ("initContainers", 0, "resources", "limits", "ephemeral-storage"),
    ):
        of_pod = ("spec", "template", "spec", *path)
        assert parse_quantity(component.value, *of_pod) == parse_quantity(overlay.value, *of_pod)
    (claim,) = parse_manifests((K8S / "components/models-pvc/claim.yaml").read_text(), "claim")
    storage = parse_quantity(claim.value, "spec", "resources", "requests", "storage")
    assert storage == models_volume.LEAST_BYTES


def test_models_in_an_image_come_from_the_image_that_is_named(tmp_path: Path) -> None:
    reference = f"r.example:5000/team/models@sha256:{'0' * 64}"
    overlay = initialised(tmp_path, "--models", f"image:{reference}")
    pod = at(one(kustomized(overlay), "Deployment").value, "spec", "template", "spec")
    (volume,) = [each for each in objects(pod, "volumes") if each["name"] == "models"]
    assert at(volume, "image") == {"reference": reference, "pullPolicy": "IfNotPresent"}


def test_a_claim_for_a_gpu_asks_for_enough_memory(tmp_path: Path) -> None:
    template = one(kustomized(initialised(tmp_path, "--gpu", "dra")), "ResourceClaimTemplate")
    path = ("spec", "spec", "devices", "requests", 0, "exactly", "selectors")
    expressions = [text(each, "cel", "expression") for each in objects(template.value, *path)]
    gpu = {"cudaComputeCapability": "8.0.0", "driverVersion": "580.0.0"}

    def takes(memory: str) -> bool:
        return all(
            selects_device(each, "gpu.nvidia.com", gpu, {"memory": memory}) for each in expressions
        )

    # 1 GiB, and 600 MiB for CUDA's context.
    assert not takes("1623Mi")
    assert takes("1624Mi")
    assert takes("80Gi")


def test_the_image_that_is_asked_for_is_the_one_that_runs(tmp_path: Path) -> None:
    pinned = f"r.example:5000/team/stoker@sha256:{'0' * 64}"
    deployment = one(kustomized(initialised(tmp_path, "--image", pinned)), "Deployment")
    assert text(deployment.value, *("spec", "template", "spec", "containers", 0, "image")) == pinned


def test_a_folder_with_a_kustomization_is_rendered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kubectl = Path(require_tool("kubectl"))
    monkeypatch.setenv("PATH", os.pathsep.join([str(kubectl.parent), os.environ["PATH"]]))
    assert main(["k8s", "lint", str(K8S / "overlays" / "dev"), "--format", "json"]) == DONE
    assert json.loads(capsys.readouterr().out)["manifests"] == len(render("overlays/dev"))
    (tmp_path / "kustomization.yaml").write_text("resources: [absent]")
    assert main(["k8s", "lint", str(tmp_path)]) == 2
    assert "`kubectl kustomize` failed" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["k8s", "lint", str(tmp_path)]) == 2
    assert "neither kubectl nor kustomize" in capsys.readouterr().err


def test_a_broken_overlay_fails(tmp_path: Path) -> None:
    output = initialised(tmp_path, *WITHOUT_GPU)
    patch = output / "deployment.yaml"
    was = patch.read_text()
    patch.write_text(was.replace("PeriodSeconds: 60", "PeriodSeconds: 20"))
    assert patch.read_text() != was
    (tmp_path / "rendered.yaml").write_text(
        "---\n".join(json.dumps(each.value) + "\n" for each in kustomized(output))
    )
    assert main(["k8s", "lint", str(tmp_path / "rendered.yaml")]) == FAILED


def test_the_tables_of_rules_are_those_of_the_code() -> None:
    document = (ROOT / "docs" / "k8s-lint.md").read_text()
    between = document.split(lint_table.BEGIN)[1].split(lint_table.END)[0]
    assert between == f"\n{lint_table.tables()}\n"
    assert all(document.count(f"| `{rule.id}` |") == 1 for rule in RULES)


def test_the_package_carries_the_manifests_where_init_looks_for_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    carried = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    packaged = base_location.PACKAGED.relative_to(ROOT / "server")
    assert carried == {f"k8s/{folder}": str(packaged / folder) for folder in ("base", "components")}
    assert base_location.CHECKOUT == K8S


def test_what_is_said_of_the_image_is_in_the_dockerfile() -> None:
    dockerfile = (ROOT / "Dockerfile.gpu").read_text()
    assert f"CMD {json.dumps(list(image.IMAGE_COMMAND))}" in dockerfile
    assert f"HOME={image.CACHE_FOLDER} " in dockerfile
    assert f"XDG_CACHE_HOME={image.CACHE_FOLDER} " in dockerfile
    assert "STOKER_DEVICE=${VARIANT}" in dockerfile


def test_the_formula_of_memory_has_the_servers_own_bounds() -> None:
    assert memory_need.SETS == outputs.POOL_SLABS
    assert memory_need.SET_BYTES == outputs.SET_BYTES
    assert memory_need.ALLOCATOR_BYTES == allocator.KEPT_BYTES
    assert Settings().gpu_memory_share == sizing.GPU_MEMORY_SHARE
    assert Settings().hung_load_timeout_s < sizing.LEAST_GPU_STARTUP_S
    wishes = sizing.Wishes()
    assert wishes.drain_delay_s == Settings().drain_delay_s
    assert wishes.drain_timeout_s == Settings().drain_timeout_s


def test_the_mig_component_asks_for_the_slice_that_init_replaces() -> None:
    component = (K8S / "components" / "mig" / "deployment.yaml").read_text()
    assert f'{overlay_patches.COMPONENT_SLICE}: "1"' in component
