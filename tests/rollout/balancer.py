"""A real haproxy between clients and replicas, in the two ways in which a cluster balances.

    port              | as                            | balances     | a replica that is down
    l4_grpc, l4_http  | kube-proxy: TCP               | connections  | keeps those that are open
    l7_grpc, l7_http  | a gateway: HTTP/2, HTTP/1.1   | requests     | gets no more

A replica is taken out by a check of its management port and by nothing else, so `Checks` is how
long the cluster takes to notice. In Kubernetes the deletion of a pod makes its endpoint not ready
at once, and proxies hear of it within a second or two; the kubelet's own probe (5 s, twice) is not
waited for. The slowest check here is far slower than that and faster than the drain delay.

haproxy sends nothing again: `retries 0`, `no option redispatch`. It is told of replicas over its
admin socket, as endpoints come and go, and inherits its listening sockets: no port is fixed.
Source: Kubernetes, "Virtual IPs and Service Proxies"; HAProxy 2.6 configuration and management.
"""

import csv
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.conftest import Endpoints
from tests.tools import require_tool

SLOTS: Final = 8
"""Replicas that haproxy knows at once: three, three that replace them, and two to spare."""

PORTS: Final = ("l4_grpc", "l4_http", "l7_grpc", "l7_http")

PATIENCE_S: Final = 10.0

SESSION_FIELD: Final = re.compile(r"\b(fe|srv|src|age)=(\S+)")
"""Of a line of `show sess`."""


@dataclass(frozen=True, slots=True)
class Checks:
    """How haproxy learns that a replica is to get no more."""

    path: str = "/readyz"
    interval_ms: int = 1000
    fall: int = 2
    """Checks that fail, one after the other, before a replica is down."""

    @property
    def slowest_s(self) -> float:
        """From a replica's change to its removal, at most."""
        return (self.interval_ms * self.fall + CHECK_TIMEOUT_MS) / 1000


CHECK_TIMEOUT_MS: Final = 1000

CONFIGURATION: Final = """\
global
    stats socket {socket} mode 600 level admin
    nbthread 1
    hard-stop-after 1s

defaults
    timeout connect 5s
    timeout client 120s
    timeout server 120s
    timeout check {check_timeout_ms}ms
    retries 0
    no option redispatch
    balance roundrobin
    option httpchk
    http-check send meth GET uri {checks.path} ver HTTP/1.1 hdr Host stoker
    http-check expect status 200
    default-server inter {checks.interval_ms}ms fall {checks.fall} rise 1
"""

PORT: Final = """
listen {name}
    mode {mode}
    bind fd@{descriptor}{protocol}
"""

SERVER: Final = (
    "    server replica{slot} 127.0.0.1:1{protocol} check check-proto h1 port 1 disabled\n"
)
"""A slot. (`server-template` of haproxy 2.6 forgets `check-proto` from the second slot on.)"""


class Balancer:
    """haproxy with no replicas yet. Ends with its `with` block."""

    def __init__(self, folder: Path, checks: Checks) -> None:
        self.checks = checks
        self._socket_path = folder / "haproxy.sock"
        self._slots: dict[str, int] = {}
        """The slot of each replica by name."""
        listeners = {name: _listener() for name in PORTS}
        self._ports = {name: each.getsockname()[1] for name, each in listeners.items()}
        text = CONFIGURATION.format(
            socket=self._socket_path, checks=checks, check_timeout_ms=CHECK_TIMEOUT_MS
        )
        for name, listener in listeners.items():
            mode = "tcp" if name.startswith("l4") else "http"
            protocol = " proto h2" if name == "l7_grpc" else ""
            text += PORT.format(
                name=name, mode=mode, descriptor=listener.fileno(), protocol=protocol
            )
            for slot in range(1, SLOTS + 1):
                text += SERVER.format(slot=slot, protocol=protocol)
        configuration = folder / "haproxy.cfg"
        configuration.write_text(text)
        self._log_path = folder / "haproxy.log"
        with self._log_path.open("w") as log:
            self._process = subprocess.Popen(
                [require_tool("haproxy"), "-db", "-f", str(configuration)],
                pass_fds=[each.fileno() for each in listeners.values()],
                stdout=log,
                stderr=log,
            )
        for each in listeners.values():
            each.close()
        self._wait_for_haproxy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def address(self, port: str) -> str:
        """`host:port` of one of PORTS."""
        return f"127.0.0.1:{self._ports[port]}"

    def add(self, name: str, at: Endpoints) -> None:
        """The replica `name`, which is ready, gets its share from here on."""
        free = set(range(1, SLOTS + 1)) - set(self._slots.values())
        self._slots[name] = slot = min(free)
        for port in PORTS:
            server = f"{port}/replica{slot}"
            to = at.grpc_port if port.endswith("grpc") else at.http_port
            self._tell(
                f"set server {server} addr 127.0.0.1 port {to}", "IP changed", "port changed"
            )
            self._tell(f"set server {server} check-port {at.metrics_port}", "health check port")
            self._tell(f"set server {server} state ready")

    def withhold(self, name: str) -> None:
        """The replica `name` gets nothing new from here on; what is open stays."""
        for server in self._servers(name):
            self._tell(f"set server {server} state drain")

    def remove(self, name: str) -> None:
        """Forgets the replica `name`, which has ended."""
        for server in self._servers(name):
            self._tell(f"set server {server} state maint")
        del self._slots[name]

    def is_up(self, name: str) -> bool:
        """Whether any port still sends something new to the replica."""
        return any(row["status"].startswith("UP") for row in self._rows(name))

    def connections(self, name: str) -> dict[str, int]:
        """The connections, or over l7 the requests, that each port has open to the replica."""
        return {row["pxname"]: int(row["scur"]) for row in self._rows(name)}

    def clients(self, name: str) -> set[str]:
        """The clients that have had a connection to the replica of their own for a second, over L4:
        each by port and address, which is another one when it comes again. (One that is made in
        the moment of a SIGTERM counts for the server as made after it.)"""
        server = f"replica{self._slots[name]}"
        found = set()
        for session in self._ask("show sess").splitlines():
            fields = dict(SESSION_FIELD.findall(session))
            is_new = fields.get("age") == "0s"
            if fields.get("srv") == server and fields["fe"].startswith("l4") and not is_new:
                found.add(f"{fields['fe']} {fields['src']}")
        return found

    def connections_made(self, name: str) -> int:
        """Those that were ever opened to the replica, over l7 the requests that were sent to it."""
        return sum(int(row["stot"]) for row in self._rows(name))

    def _servers(self, name: str) -> list[str]:
        return [f"{port}/replica{self._slots[name]}" for port in PORTS]

    def _rows(self, name: str) -> list[dict[str, str]]:
        """haproxy's statistics of the replica, one row for each port."""
        slot = f"replica{self._slots[name]}"
        rows = csv.DictReader(self._ask("show stat").removeprefix("# ").splitlines())
        return [row for row in rows if row["svname"] == slot]

    def _tell(self, command: str, *expected: str) -> None:
        """A command that changes something; haproxy answers with nothing, or what it changed."""
        said = self._ask(command).strip()
        if said and not any(each in said for each in (*expected, "no need to change")):
            raise AssertionError(f"haproxy refused {command!r}: {said}")

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(PATIENCE_S)
            admin.connect(str(self._socket_path))
            admin.sendall(command.encode() + b"\n")
            pieces = []
            while piece := admin.recv(1 << 16):
                pieces.append(piece)
        return b"".join(pieces).decode()

    def _wait_for_haproxy(self) -> None:
        """It opens its admin socket before it serves its ports."""
        address = ("127.0.0.1", self._ports["l4_http"])
        with socket.create_connection(address, timeout=PATIENCE_S) as plug:
            # Until haproxy serves it the kernel holds the connection; without a replica haproxy
            # closes what it accepts.
            assert plug.recv(1) == b"", self._log_path.read_text()


def _listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    return listener
