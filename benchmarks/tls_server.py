"""`stoker serve` over TLS: the server that it starts, with a TLS context for its data ports.

Not a benchmark itself: `serving.serve` starts it. `stoker serve` has no flag for certificates.

    python -m benchmarks.tls_server CERTIFICATE KEY ARGUMENTS-OF-STOKER-SERVE...
"""

import sys
from pathlib import Path

from stoker.arguments import parse_settings
from stoker.process import serve
from stoker.transport.tls import server_context


def main() -> int:
    """The exit code of the server."""
    certificate, key, *words = sys.argv[1:]
    context = server_context(Path(certificate), Path(key))
    return serve(parse_settings("serve", words), context)


if __name__ == "__main__":
    sys.exit(main())
