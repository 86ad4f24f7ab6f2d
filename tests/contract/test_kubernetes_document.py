"""The commands of docs/kubernetes.md and of README's Kubernetes section do what they say."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import yaml
from stoker.deploy.init_arguments import parse_init
from stoker.deploy.init_command import run_init
from stoker.deploy.lint import lint
from stoker.deploy.manifest import Manifest, at
from stoker.deploy.measurement import to_json

from tests.broken_manifests import measurement
from tests.conftest import Serving
from tests.contract.manifests import K8S, JsonObject, documents, objects, text
from tests.contract.schemas import is_built_in
from tests.models import ModelEntry, identity, write_repository
from tests.tools import require_tool

ROOT: Final = K8S.parent
GUIDE: Final = (ROOT / "docs" / "kubernetes.md").read_text()
README: Final = (ROOT / "README.md").read_text()
SIMULATION: Final = (ROOT / "benchmarks" / "results" / "0011-autoscaling.md").read_text()


def commands(document: str, heading: str) -> list[str]:
    """The command lines of a section, those that go on in a next line put together."""
    section = document.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)
    return "".join(blocks).replace("\\\n", " ").splitlines()


def init_words(section: list[str]) -> list[str]:
    """The arguments of `stoker k8s init` in it."""
    (found,) = [each for each in section if "stoker k8s init" in each]
    return shlex.split(found.partition("k8s init")[2])


def render(folder: Path) -> list[JsonObject]:
    """What kubectl makes of a folder."""
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
    )
    return list(documents(done.stdout))


def table_rows(document: str) -> dict[str, list[str]]:
    """The cells of each line of its tables, by the first."""
    lines = [line.split("|")[1:-1] for line in document.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [each.strip() for each in cells[1:]] for cells in lines}


def test_the_choices_for_the_autoscaler_have_the_numbers_of_the_simulation() -> None:
    told = table_rows(GUIDE.split("**To choose otherwise**")[1].split("\n- ")[0])
    head, _, *choices = told
    assert head == "changed"
    assert {"as shipped", "target 0.50", "5 s"} < set(choices)
    simulated = table_rows(SIMULATION.split("\n| changed |")[1])
    for changed in choices:
        assert told[changed][:3] == simulated[changed], changed


def image(manifests: list[JsonObject]) -> str:
    """Of the server's container."""
    (deployment,) = [each for each in manifests if each["kind"] == "Deployment"]
    (container,) = objects(deployment, "spec", "template", "spec", "containers")
    return text(container, "image")


@pytest.fixture
def mine(tmp_path: Path) -> list[JsonObject]:
    """The overlay of the laptop's section, from a measurement that is there."""
    measured = tmp_path / "measured.json"
    measured.write_text(to_json(measurement()))
    words = init_words(commands(GUIDE, "On a laptop"))
    words[words.index("--output") + 1] = str(tmp_path / "mine")
    with (tmp_path / "told").open("w") as told:
        run_init([*words, "--measured", str(measured)], told)
    return render(tmp_path / "mine")


def test_the_laptops_overlay_needs_nothing_that_a_fresh_cluster_lacks(
    mine: list[JsonObject],
) -> None:
    assert [each["kind"] for each in mine if not is_built_in(each)] == []
    kinds = {each["kind"] for each in mine}
    assert not kinds & {"HorizontalPodAutoscaler", "PodDisruptionBudget"}
    (deployment,) = [each for each in mine if each["kind"] == "Deployment"]
    volumes = objects(deployment, "spec", "template", "spec", "volumes")
    assert all({"configMap", "emptyDir"} & each.keys() for each in volumes)
    assert at(deployment, "spec", "replicas") == 1


def test_the_laptops_overlay_runs_the_image_that_was_built_and_loaded(
    mine: list[JsonObject],
) -> None:
    section = commands(GUIDE, "On a laptop")
    assert any(f"docker build -t {image(mine)} " in each for each in section)
    assert f"kind load docker-image {image(mine)}" in section


@pytest.mark.parametrize(
    ("document", "heading"),
    [(GUIDE, "On a GPU cluster"), (README, "On Kubernetes")],
    ids=["guide", "readme"],
)
def test_the_overlay_for_gpus_runs_the_image_that_was_pushed(document: str, heading: str) -> None:
    section = commands(document, heading)
    options = parse_init(init_words(section))
    assert any(each.endswith(f"docker push {options.overlay.image}") for each in section)


@pytest.mark.parametrize(
    ("document", "heading"),
    [(GUIDE, "On a GPU cluster"), (README, "On Kubernetes")],
    ids=["guide", "readme"],
)
def test_whatever_is_applied_for_the_models_is_there_or_written_by_init(
    document: str, heading: str, tmp_path: Path
) -> None:
    measured = tmp_path / "measured.json"
    measured.write_text(to_json(measurement()))
    section = commands(document, heading)
    words = init_words(section)
    output = words[words.index("--output") + 1]
    words[words.index("--output") + 1] = str(tmp_path / "mine")
    with (tmp_path / "told").open("w") as told:
        run_init([*words, "--measured", str(measured)], told)
    applied = re.findall(r"kubectl apply -f (\S+)", "\n".join(section))
    kinds = set()
    for each in applied:
        file = Path(each.replace(output, str(tmp_path / "mine"), 1))
        kinds |= {made["kind"] for made in documents((ROOT / file).read_text())}
    assert "PersistentVolumeClaim" in kinds
    mounted = [
        text(each, "persistentVolumeClaim", "claimName")
        for deployment in render(tmp_path / "mine")
        if deployment["kind"] == "Deployment"
        for each in objects(deployment, "spec", "template", "spec", "volumes")
        if "persistentVolumeClaim" in each
    ]
    assert mounted == ["stoker-models"]


def blocks(language: str, having: str) -> list[str]:
    """Those of the guide in a language that hold a text."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.M | re.S)
    return [each for each in found if having in each]


@pytest.mark.parametrize("name", ["", "search"], ids=["unnamed", "named"])
def test_more_components_may_be_laid_over_what_init_wrote(name: str, tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    overlays = tmp_path / "k8s" / "overlays"
    measured = tmp_path / "measured.json"
    measured.write_text(to_json(measurement()))
    words = [
        "--measured",
        str(measured),
        "--namespace",
        "stoker",
        "--image",
        f"r.example/stoker@sha256:{'0' * 64}",
    ]
    with (tmp_path / "told").open("w") as told:
        named = ["--name", name] if name else []
        run_init([*words, *named, "--output", str(overlays / "mine")], told)
    (overlay,) = blocks("yaml", "# k8s/overlays/live/kustomization.yaml")
    if name:
        overlay += blocks("yaml", f"instance: {name}")[0]
    (overlays / "live").mkdir()
    (overlays / "live" / "kustomization.yaml").write_text(overlay)
    manifests = render(overlays / "live")
    assert "NetworkPolicy" in {each["kind"] for each in manifests}
    found = lint([Manifest(dict(each), "live") for each in manifests], measured=measurement())
    assert [each.rule.id for each in found] == []


def test_a_prometheus_without_the_operator_gives_the_labels_that_rules_read(tmp_path: Path) -> None:
    (configuration,) = blocks("yaml", "scrape_configs:")
    (command,) = blocks("sh", "stoker-rules.yaml")
    script = command.replace("k8s/components", str(K8S / "components"))
    subprocess.run(script, shell=True, cwd=tmp_path, check=True)
    # Debian's promtool is built without discovery by Kubernetes.
    discovery = "kubernetes_sd_configs: [{role: pod}]"
    assert discovery in configuration
    (tmp_path / "prometheus.yml").write_text(configuration.replace(discovery, "static_configs: []"))
    checked = subprocess.run(
        [require_tool("promtool"), "check", "config", "prometheus.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    rules = yaml.safe_load((K8S / "components/monitoring/prometheusrule.yaml").read_text())
    assert yaml.safe_load((tmp_path / "stoker-rules.yaml").read_text()) == rules["spec"]
    steps = yaml.safe_load(configuration)["scrape_configs"][0]["relabel_configs"]
    given = {each["target_label"] for each in steps if "target_label" in each}
    assert given == {"namespace", "pod", "job"}
    (deployment,) = [each for each in render(K8S / "base") if each["kind"] == "Deployment"]
    pod = at(deployment, "spec", "template")
    assert text(pod, "metadata", "annotations", "prometheus.io/scrape") == "true"
    assert text(pod, "metadata", "labels", "app.kubernetes.io/name") == "stoker"
    ports = objects(pod, "spec", "containers", 0, "ports")
    assert [each["containerPort"] for each in ports if each["name"] == "management"] == [8002]


def snippet(language: str) -> str:
    """The one block of the guide in a programming language."""
    found: str
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.M | re.S)
    return found


def test_the_python_client_of_the_guide_gets_an_answer_over_grpcs_own_limit(
    serve: Serving, tmp_path: Path
) -> None:
    repository = write_repository(
        tmp_path, {"wide": ModelEntry(identity(shape=("batch", 2 << 20)))}
    )
    at = serve(repository).at
    headless = "dns:///stoker-headless:8001"
    code = snippet("python")
    assert headless in code
    names: dict[str, Any] = {}
    exec(code.replace(headless, f"dns:///127.0.0.1:{at.grpc_port}"), names)
    triton, client = names["triton"], names["client"]
    rows = np.arange(2 << 20, dtype=np.float32).reshape(1, -1)
    given = triton.InferInput("x", [1, 2 << 20], "FP32")
    given.set_data_from_numpy(rows)
    with client:
        answer = client.infer("wide", [given])
    assert rows.nbytes == 8 << 20
    assert np.array_equal(answer.as_numpy("y"), rows)


@pytest.mark.parametrize(
    ("language", "option"),
    [
        ("go", "grpc.MaxCallRecvMsgSize(1<<30)"),
        ("java", ".maxInboundMessageSize(1 << 30)"),
        ("cpp", "SetMaxReceiveMessageSize(-1)"),
    ],
)
def test_every_client_of_the_guide_takes_answers_over_4_mib(language: str, option: str) -> None:
    assert option in snippet(language)


def test_the_readmes_overlay_runs_the_image_that_was_pushed(tmp_path: Path) -> None:
    section = commands(README, "On Kubernetes")
    (pushed,) = [each.rpartition("docker push ")[2] for each in section if "docker push" in each]
    (edit,) = [each for each in section if each.startswith("echo ")]
    shutil.copytree(K8S, tmp_path / "k8s")
    subprocess.run(edit, shell=True, cwd=tmp_path, check=True)
    (applied,) = [each for each in section if "kubectl apply -k k8s/overlays/gpu" in each]
    folder = applied.split()[3]
    assert image(render(tmp_path / folder)) == pushed
