"""How the build of an image reaches packages as this machine does, and what of that must not stay.

pip inside the build has no settings. Where this machine has a mirror, a proxy or a private CA, they
are handed to the build as two secrets, mounted for single commands: a pip.conf and a CA bundle.
`traces` gives what would show in an image that one of them was kept.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

CA_SECRET: Final = "/run/secrets/ca.pem"
"""Where Dockerfile.gpu mounts the bundle."""

CARRIED: Final = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "timeout")
"""The settings that decide how packages are reached. What is installed is decided by the locks."""

PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PipAccess:
    """What of pip's settings the build needs."""

    settings: dict[str, tuple[str, ...]]
    """Words of each of CARRIED that is set, without places on this machine's disk."""

    ca_bundle: Path | None
    """The CA bundle, None where pip's own is used."""

    dropped: tuple[str, ...] = ()
    """Folders of packages on this machine's disk: the build does without them."""

    def pip_conf(self) -> str:
        """The text of the pip.conf that is mounted for the build."""
        lines = ["[global]"]
        lines += [f"{key} = {' '.join(words)}" for key, words in self.settings.items()]
        lines += [f"cert = {CA_SECRET}"] if self.ca_bundle is not None else []
        return "\n".join(lines) + "\n"


def parse(listing: str) -> PipAccess:
    """`pip config list` as a value. A variable (`:env:`) goes before a file."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        name, separator, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if not separator or section not in ("global", "install", ":env:"):
            continue
        if section == ":env:" or key not in found:
            found[key] = str(ast.literal_eval(value))
    words = {key: found[key].split() for key in CARRIED if key in found}
    kept = {key: tuple(word for word in each if not _on_disk(word)) for key, each in words.items()}
    cert = found.get("cert")
    return PipAccess(
        settings={key: each for key, each in kept.items() if each},
        ca_bundle=Path(cert) if cert else None,
        dropped=tuple(word for each in words.values() for word in each if _on_disk(word)),
    )


def _on_disk(word: str) -> bool:
    return word.startswith(("/", "file:", "."))


def read() -> PipAccess:
    """This machine's settings, as the pip of this interpreter sees them."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    return parse(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def traces(access: PipAccess, public_bundles: Iterable[str]) -> dict[str, bytes]:
    """What must be nowhere in an image: by its name, the bytes to look for.

    Hosts and credentials of the settings, folders of packages, the file that the secrets are
    mounted as, and the body of every CA certificate that is in none of `public_bundles` (texts):
    those are in packages, grpcio's for one.
    """
    found = {
        f"{key} {place}": place.encode()
        for key, words in access.settings.items()
        if key != "timeout"
        for word in words
        for place in _places(word)
    }
    found |= {f"folder {word}": word.encode() for word in access.dropped}
    if access.ca_bundle is not None:
        public = {_body(each) for text in public_bundles for each in PEM.findall(text)}
        private = {_body(each) for each in PEM.findall(access.ca_bundle.read_text())} - public
        # The first line is much the same in all certificates; the fourth is of this one alone.
        found |= {f"certificate {each[:8]}...": each.splitlines()[3].encode() for each in private}
    return found


def _places(word: str) -> set[str]:
    address = urlsplit(word if "//" in word else f"//{word}")
    return {part for part in (address.hostname, address.username, address.password) if part}


def _body(certificate: str) -> str:
    return "\n".join(line.strip() for line in certificate.split())
