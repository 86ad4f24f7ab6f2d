"""The recipes for users' overlays, in k8s/README.md and in the heads of the components, work."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml
from stoker.deploy.manifest import at, mapping
from stoker.deploy.restricted import violations

from tests.contract.conflicts import conflicts
from tests.contract.manifests import (
    COMPONENTS,
    K8S,
    JsonObject,
    objects,
    render,
    render_overlay,
    text,
)
from tests.contract.schemas import CRDS, OLDEST_AND_NEWEST, custom_problems, is_built_in, problems


def overlays_of_the_readme() -> list[str]:
    """Every kustomization that the README shows, with paths as `render_overlay` wants them."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", (K8S / "README.md").read_text(), re.M | re.S)
    return [block.replace("../k8s/", "") for block in blocks]


def recipe(component: str) -> str | None:
    """The indented lines in the comment at the head of a component's kustomization.yaml."""
    head = (K8S / "components" / component / "kustomization.yaml").read_text().split("\napiV")[0]
    lines = re.findall(r"^#   (.*)$", head, re.MULTILINE)
    return "\n".join(lines) or None


RECIPES: Final = [each for each in COMPONENTS if recipe(each) is not None]


def check(manifests: tuple[JsonObject, ...]) -> None:
    """Whether a cluster would take the manifests and run the pods."""
    assert conflicts(manifests) == []
    for each in manifests:
        if is_built_in(each):
            assert [problems(each, version) for version in OLDEST_AND_NEWEST] == [(), ()]
        elif CRDS.is_dir():
            assert custom_problems(each) == []
        if each["kind"] == "Deployment":
            spec = mapping(each, "spec", "template", "spec")
            assert list(violations(spec, "spec.template.spec")) == []


@pytest.mark.parametrize("overlay", overlays_of_the_readme(), ids=range(4))
def test_an_overlay_of_the_readme_renders_and_is_valid(overlay: str) -> None:
    assert overlay.startswith("# my-overlay/kustomization.yaml\n")
    check(render_overlay(overlay))


def test_the_readmes_overlay_for_keda_asks_for_the_pods_of_its_namespace() -> None:
    overlay = next(each for each in overlays_of_the_readme() if "autoscaling-keda" in each)
    namespace = yaml.safe_load(overlay)["namespace"]
    (scaler,) = [each for each in render_overlay(overlay) if each["kind"] == "ScaledObject"]
    for trigger in objects(scaler, "spec", "triggers"):
        assert f'namespace="{namespace}"' in text(trigger, "metadata", "query")


def test_the_policies_of_the_readmes_overlay_let_its_gateway_in() -> None:
    overlay = next(each for each in overlays_of_the_readme() if "components/gateway" in each)
    rendered = render_overlay(overlay)
    policies = [each for each in rendered if each["kind"] == "NetworkPolicy"]
    (policy,) = [each for each in policies if text(each, "metadata", "name") == "stoker"]
    expression = ("namespaceSelector", "matchExpressions", 0, "values")
    names = at(policy, "spec", "ingress", 0, "from", 1, *expression)
    assert isinstance(names, list)
    for route in (each for each in rendered if str(each["kind"]).endswith("Route")):
        assert text(route, "spec", "parentRefs", 0, "namespace") in names


@pytest.mark.parametrize("component", RECIPES)
def test_the_recipe_at_the_head_of_a_component_changes_it_and_is_valid(component: str) -> None:
    content = {"resources": ["base"], "components": [f"components/{component}"]}
    changed = render_overlay(yaml.safe_dump({**content, **yaml.safe_load(recipe(component) or "")}))
    assert changed != render(f"components/{component}")
    check(changed)


def test_most_components_that_need_a_value_of_the_users_have_a_recipe() -> None:
    assert set(RECIPES) >= {
        "dra",
        "gateway",
        "mig",
        "models-image-volume",
        "models-pvc",
        "models-s3",
        "monitoring",
        "network-policy",
    }


def links(readme: Path) -> Iterator[str]:
    """What a document names in this folder as code."""
    for name in re.findall(r"`((?:base|overlays|components|kserve)/[\w./-]*)`", readme.read_text()):
        yield str(name)


def test_every_folder_and_file_that_the_readme_names_is_there() -> None:
    assert [name for name in links(K8S / "README.md") if not (K8S / name).exists()] == []
