"""An overlay finds its base where it is told to, in its checkout, or brings a copy."""

from pathlib import Path

import pytest
from stoker.deploy.base_location import NoBase, copy_base, find_base


def checkout(folder: Path) -> Path:
    """A folder with a base and one component."""
    for name in ("base", "components/gpu"):
        (folder / name).mkdir(parents=True)
        (folder / name / "kustomization.yaml").write_text("")
    return folder


def test_in_a_checkout_paths_are_relative(tmp_path: Path) -> None:
    k8s = checkout(tmp_path / "k8s")
    base = find_base(k8s / "overlays" / "mine", "")
    assert base.entry("base") == "../../base"
    assert base.entry("components/gpu") == "../../components/gpu"
    assert not base.is_copied
    assert base.has("gpu")
    assert not base.has("mig")
    # Also from beside k8s/.
    assert find_base(tmp_path / "deploy" / "mine", "").entry("base") == "../../k8s/base"


def test_elsewhere_a_copy_is_brought(tmp_path: Path) -> None:
    output = tmp_path / "mine"
    base = find_base(output, "")
    assert base.is_copied
    assert base.entry("components/gpu") == "stoker/components/gpu"
    copy_base(base, output)
    stale = output / "stoker" / "base" / "stale.yaml"
    stale.write_text("")
    copy_base(base, output)
    assert (output / base.entry("components/gpu") / "kustomization.yaml").is_file()
    assert not stale.exists()


def test_a_folder_that_is_named_is_taken(tmp_path: Path) -> None:
    other = checkout(tmp_path / "other")
    base = find_base(tmp_path / "mine", str(other))
    assert (base.entry("base"), base.is_copied) == ("../other/base", False)
    with pytest.raises(NoBase, match=r"expected a folder with base/kustomization\.yaml, got "):
        find_base(tmp_path / "mine", str(tmp_path))


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://x.example/stoker//k8s?ref=v1", "https://x.example/stoker//k8s/base?ref=v1"),
        ("https://x.example/stoker//k8s/", "https://x.example/stoker//k8s/base"),
        ("git@x.example:stoker//k8s?ref=v1", "git@x.example:stoker//k8s/base?ref=v1"),
    ],
)
def test_of_a_url_the_query_stays_at_the_end(url: str, entry: str, tmp_path: Path) -> None:
    assert find_base(tmp_path / "mine", url).entry("base") == entry
