"""Label selectors: which pods a Service, a budget, a monitor or a policy means.

Source: Kubernetes, "Labels and selectors": all conditions must hold; an empty selector matches all.
"""

from collections.abc import Mapping

from stoker.deploy.manifest import JsonValue, objects, strings, text, texts


def selects(selector: JsonValue, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector (`matchLabels`, `matchExpressions`) matches these labels."""
    wanted = strings(selector, "matchLabels")
    return matches(wanted, labels) and all(
        _holds(text(each, "operator"), labels.get(text(each, "key")), texts(each, "values"))
        for each in objects(selector, "matchExpressions")
    )


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether the plain selector of a Service matches these labels."""
    return wanted.items() <= labels.items()


def _holds(operator: str, value: str | None, values: list[str]) -> bool:
    match operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False
