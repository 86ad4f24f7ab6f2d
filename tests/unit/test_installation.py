"""Broken installations of ONNX Runtime, made up."""

from stoker.runtime.installation import installation_problem, installed_distributions


def test_one_whole_distribution_is_well() -> None:
    assert installation_problem(("onnxruntime",), imports=True) is None
    assert installation_problem(("onnxruntime-gpu",), imports=True) is None


def test_a_build_of_ones_own_is_well() -> None:
    assert installation_problem((), imports=True) is None


def test_two_distributions_are_refused_though_they_import() -> None:
    problem = installation_problem(("onnxruntime", "onnxruntime-gpu"), imports=True)
    assert problem is not None
    assert problem.startswith("onnxruntime and onnxruntime-gpu are installed together")


def test_a_missing_runtime_names_both_extras() -> None:
    assert installation_problem((), imports=False) == (
        'ONNX Runtime is not installed; install one of "stoker[cpu]" and "stoker[gpu]"'
    )


def test_a_hollow_package_is_told() -> None:
    problem = installation_problem(("onnxruntime-gpu",), imports=False)
    assert problem is not None
    assert "its files are damaged" in problem


def test_this_environment_has_exactly_one() -> None:
    assert len(installed_distributions()) == 1
