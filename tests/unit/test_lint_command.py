"""`stoker k8s lint` as its callers meet it: input, output, exit codes."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
from stoker.cli import BAD_USAGE, DONE, FAILED, main
from stoker.deploy.lint import lint
from stoker.deploy.manifest import JsonValue, UnreadableManifests
from stoker.deploy.measurement import to_json

from tests.broken_manifests import (
    add,
    as_yaml,
    drop,
    edited,
    findings,
    good,
    measurement,
    pod,
    put,
    server,
)

SHORT_GRACE = pod("terminationGracePeriodSeconds", value=30)
TIGHT = server("livenessProbe", "timeoutSeconds", value=1)


def run(*words: str | Path) -> int:
    return main(["k8s", "lint", *map(str, words)])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A file with one error and one warning."""
    file = tmp_path / "broken.yaml"
    file.write_text(as_yaml(edited(SHORT_GRACE, TIGHT)))
    return file


def test_an_error_is_told_with_where_what_why_and_mend(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(broken) == FAILED
    told = capsys.readouterr().out
    assert told.startswith(
        "error  grace-shorter-than-drain  Deployment/stoker  "
        "spec.template.spec.terminationGracePeriodSeconds\n"
        "  found: 30 s; preStop 0 s + drain_delay 5 s + drain_timeout 30 s + 5 s = 40 s\n"
        "  why:   SIGKILL comes before the drain has ended"
    )
    assert "\n  mend:  Give 40 s or more" in told
    assert told.endswith("\n1 error, 1 warning, 0 notes in 8 manifests\n")


def test_json_has_the_same_and_names_its_source(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(broken, "--format", "json") == FAILED
    told = json.loads(capsys.readouterr().out)
    assert told["manifests"] == 8
    assert told["counts"] == {"error": 1, "warning": 1, "info": 0}
    first = told["findings"][0]
    assert (first["rule"], first["severity"]) == ("grace-shorter-than-drain", "error")
    assert (first["kind"], first["name"], first["namespace"]) == ("Deployment", "stoker", "")
    assert first["source"] == f"{broken} document 1"
    assert set(first) == {
        *("rule", "severity", "kind", "namespace", "name", "path", "source", "found", "why", "mend")
    }


def test_warnings_fail_only_a_strict_run(tmp_path: Path) -> None:
    file = tmp_path / "warned.yaml"
    file.write_text(as_yaml(edited(TIGHT)))
    assert run(file) == DONE
    assert run(file, "--strict") == FAILED
    assert run(file, "--strict", "--ignore", "liveness-too-tight") == DONE


def test_standard_input_files_and_folders_are_read_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment, *others = good()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "others.yml").write_text(as_yaml(others))
    (tmp_path / "notes.txt").write_text("no manifest")
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(deployment.value)))
    assert run("-", tmp_path) == DONE
    assert capsys.readouterr().out == "0 errors, 0 warnings, 0 notes in 8 manifests\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "expected Kubernetes manifests, .* got none"),
        ("# nothing\n---\n", "got none"),
        ("error: no such file", "got a mapping without apiVersion"),
        ("{apiVersion: v1, kind: Pod}", "with a workload that runs Stoker; got 1 manifest without"),
    ],
)
def test_input_that_says_nothing_of_stoker_is_refused(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(content)
    assert run(file) == BAD_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(said, captured.err)


def test_a_file_that_is_not_there_or_no_text_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "absent.yaml") == BAD_USAGE
    assert "cannot be read: No such file or directory" in capsys.readouterr().err
    (tmp_path / "image.yaml").write_bytes(b"\xff\xfe")
    assert run(tmp_path / "image.yaml") == BAD_USAGE
    assert "not UTF-8 text" in capsys.readouterr().err


def test_a_folder_of_kustomizations_is_refused_and_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "overlays" / "gpu").mkdir(parents=True)
    (tmp_path / "overlays" / "gpu" / "kustomization.yaml").write_text("")
    assert run(tmp_path) == BAD_USAGE
    assert f"name one, {tmp_path / 'overlays' / 'gpu'} say" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required"),
        (["x.yaml", "--ignore", "grace-shorter"], "unknown rule grace-shorter; did you mean"),
        (["x.yaml", "--format", "xml"], "invalid choice: 'xml'"),
        (["x.yaml", "--measured", "soon"], "soon: expected the measured.json"),
    ],
)
def test_wrong_arguments_are_told(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == BAD_USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["k8s"], ["k8s", "apply"], ["k8s", "init"]])
def test_what_is_no_command_is_told(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == BAD_USAGE
    assert capsys.readouterr().err.startswith("stoker: ")


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "--help"]) == DONE
    assert "stoker k8s init [SOURCE ...]" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:  # argparse's way
        main(["k8s", "lint", "--help"])
    assert end.value.code == DONE
    assert "--measured FILE|TIME" in capsys.readouterr().out


def test_a_measured_start_is_a_time_or_the_file_of_init(broken: Path, tmp_path: Path) -> None:
    file = tmp_path / "measured.json"
    ignored = ("--ignore", "grace-shorter-than-drain")
    file.write_text(to_json(measurement(start_s=301)))
    assert run(broken, *ignored, "--measured", file) == FAILED
    assert run(broken, *ignored, "--measured", "301s") == FAILED
    assert run(broken, *ignored, "--measured", "5m") == DONE


def test_an_object_accepts_findings_on_itself_only() -> None:
    accepts = put(
        "Deployment",
        *("metadata", "annotations"),
        value={"stoker/lint-accept": "liveness-too-tight, budget-missing"},
    )
    found = findings(edited(SHORT_GRACE, TIGHT, drop("PodDisruptionBudget"), accepts))
    assert set(found) == {"grace-shorter-than-drain"}
    on_service = put(
        "Service", *("metadata", "annotations"), value={"stoker/lint-accept": "liveness-too-tight"}
    )
    assert "liveness-too-tight" in findings(edited(TIGHT, on_service))


def test_the_worst_comes_first() -> None:
    found = lint(edited(TIGHT, SHORT_GRACE, server("image", value="r.example/stoker:1")))
    assert [each.rule.severity.value for each in found] == ["error", "warning", "info"]


def test_nothing_of_stoker_is_no_clean_bill() -> None:
    with pytest.raises(UnreadableManifests, match="got 7 manifests without one"):
        lint(edited(drop("Deployment")))


def test_two_namespaces_are_two_worlds() -> None:
    elsewhere = put("Service", "metadata", "namespace", value="other")
    assert "selector-matches-nothing" in findings(edited(elsewhere))


SECOND_POD = """
apiVersion: v1
kind: Pod
metadata: {name: second}
spec: {containers: [{name: c, image: "stoker:1", args: [serve]}]}
"""


@pytest.mark.parametrize("value", [None, [], "text", 3, {"template": []}, {"ports": [3]}])
@pytest.mark.parametrize("kind", sorted({each.kind for each in good()}))
def test_a_value_of_the_wrong_type_gives_findings_and_no_crash(kind: str, value: JsonValue) -> None:
    found = findings(edited(put(kind, "spec", value=value), add(SECOND_POD)))
    assert "readiness-probe-missing" in found  # of the second pod
