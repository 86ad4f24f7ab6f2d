"""A certificate for tests: self-signed, for `localhost` and 127.0.0.1, made by `openssl`.

certificate = self_signed(tmp_path)
server, client = certificate.server_context(), certificate.client_context("h2")
"""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from stoker.transport.tls import server_context

from tests.tools import require_tool


@dataclass(frozen=True)
class Certificate:
    """PEM files. Clients that trust `certificate` trust the server that has both."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """What the server is given."""
        return server_context(self.certificate, self.key)

    def client_context(self, *protocols: str) -> ssl.SSLContext:
        """A client that trusts the server and offers these protocols by ALPN, the best first."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


def self_signed(folder: Path) -> Certificate:
    """Makes one in `folder`. Skips the test without `openssl`; fails it when CI=true."""
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    subprocess.run(
        [
            require_tool("openssl"), "req", "-x509", "-nodes", "-days", "2",
            "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
            "-keyout", str(made.key), "-out", str(made.certificate), "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return made
