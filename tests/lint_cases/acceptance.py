"""Cases of `stoker k8s lint`: Accepted findings."""

from typing import Final

from stoker.deploy.rules.acceptance import ACCEPTED
from stoker.deploy.rules.eviction import SAFE_TO_EVICT

from tests.broken_manifests import put
from tests.lint_cases.case import Case
from tests.lint_cases.pieces import notes

CASES: Final = (
    Case(
        "acceptance-unknown",
        [
            put(
                "Service",
                "metadata",
                "annotations",
                ACCEPTED,
                value="service-links, sesion-affinity",
            )
        ],
        "sesion-affinity; did you mean session-affinity?",
        [
            put(
                "Service",
                "metadata",
                "annotations",
                ACCEPTED,
                value="service-links, token-mounted,",
            )
        ],
    ),
    Case(
        "acceptance-unknown",
        [put("Deployment", "metadata", "annotations", "stoker/lint-acept", value="token-mounted")],
        "stoker/lint-acept; did you mean stoker/lint-accept?",
        [put("Deployment", "metadata", "annotations", "other/lint-acept", value="token-mounted")],
    ),
    Case(
        "acceptance-unknown",
        [notes({ACCEPTED: "token-mounted", SAFE_TO_EVICT: "true"})],
        "stoker/lint-accept of the pods; it is read of the Deployment",
        [put("Deployment", "metadata", "annotations", ACCEPTED, value="token-mounted")],
    ),
)
