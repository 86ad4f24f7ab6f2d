"""The ports that clients call: REST and gRPC, by the transport that the settings choose.

With `native` every port speaks HTTP/1.1 and HTTP/2, and over the latter REST and gRPC alike;
the two may be one port. With `grpcio` the gRPC port is grpcio's own. `app.py` builds it and calls
its life in order: `start`, `draining`, `close`.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stoker.telemetry.observer import Observer
from stoker.telemetry.server_statistics import ServerStatistics
from stoker.transport.grpc.call import Method
from stoker.transport.grpc.grpcio import GrpcioOptions, GrpcioServer
from stoker.transport.grpc.native import GrpcRequests
from stoker.transport.grpc.observed import CallObserver
from stoker.transport.rest.observed import ObservedHttp
from stoker.transport.wire.http2.http_stream import HttpRequests
from stoker.transport.wire.limits import BufferBudget, HttpLimits, OpenConnections
from stoker.transport.wire.message import Handler
from stoker.transport.wire.refusals import RefusalCounter
from stoker.transport.wire.server import HttpServer


@dataclass(frozen=True, slots=True)
class DrainingPort:
    """The steps of a drain for a port of ours."""

    server: HttpServer

    def announce_drain(self, delay: float) -> None:
        """Every client is asked, over `delay` seconds, to go elsewhere."""
        self.server.announce_drain(delay)

    async def finish(self, grace: float) -> None:
        """Returns when everything is answered and gone, after `grace` seconds at the latest."""
        try:
            async with asyncio.timeout(grace):
                await self.server.stop_accepting()
                await self.server.drained()
        except TimeoutError:
            pass
        finally:
            await self.server.close()


@dataclass(frozen=True, slots=True)
class DrainingGrpcio:
    """The same for the grpcio transport, which cannot announce a drain."""

    server: GrpcioServer

    def announce_drain(self, delay: float) -> None:
        """Nothing."""

    async def finish(self, grace: float) -> None:
        """As `DrainingPort.finish`."""
        await self.server.stop(grace)


@dataclass(frozen=True, slots=True)
class Observed:
    """Who looks at calls, and what serves those that somebody wants to know of: the same as serves
    others, over an engine that notes what becomes of them."""

    observer: Observer
    rest: Handler
    methods: Mapping[str, Method]


class DataPorts:
    """See the module's docstring. Used on the loop only."""

    def __init__(
        self,
        rest: Handler,
        methods: Mapping[str, Method],
        limits: HttpLimits,
        budget: BufferBudget,
        statistics: ServerStatistics,
        *,
        grpcio: bool,
        tls: ssl.SSLContext | None = None,
        observed: Observed | None = None,
    ) -> None:
        """With `tls` clients of both ports must speak TLS. Raises ValueError for it together with
        `grpcio`, whose port takes no context and would stay plain. `observed`: somebody looks at
        calls."""
        if grpcio and tls is not None:
            raise ValueError("expected the native gRPC transport with a TLS context, got grpcio")
        refused = RefusalCounter(statistics)
        over_http: ObservedHttp | None = None
        calls: CallObserver | None = None
        if observed is not None:
            over_http = ObservedHttp(rest, observed.rest, observed.observer)
            calls = CallObserver(observed.observer, methods, observed.methods)
            methods = calls.methods
        over_http2 = HttpRequests(over_http or rest, budget, on_refused=refused, observer=over_http)
        self._grpcio: GrpcioServer | None = None
        self._calls: GrpcRequests | None = None
        if grpcio:
            self._grpcio = GrpcioServer(
                methods,
                GrpcioOptions(
                    max_message_bytes=limits.max_message_bytes,
                    max_connection_age_s=limits.max_connection_age_s,
                ),
                budget=budget,
                statistics=statistics,
                observer=calls,
            )
            self._http = HttpServer(
                rest, limits, budget, http2=over_http2, on_refused=refused, observer=over_http
            )
            self._grpc = self._http
            return
        self._calls = GrpcRequests(
            methods,
            over_http2,
            budget,
            statistics,
            max_message_bytes=limits.max_message_bytes,
            observer=calls,
        )
        shared = OpenConnections()
        self._http, self._grpc = (
            HttpServer(
                rest,
                limits,
                budget,
                http2=self._calls,
                on_refused=refused,
                open_connections=shared,
                tls=tls,
                observer=over_http,
            )
            for _ in range(2)
        )

    async def start(self, host: str, http_port: int, grpc_port: int) -> tuple[int, int]:
        """Listens; gives the two ports. 0 picks a free one. Raises OSError for a taken one."""
        http = await self._http.start(host, http_port)
        if self._grpcio is not None:
            return http, await self._grpcio.start(host, grpc_port)
        if grpc_port and grpc_port == http_port:
            self._grpc = self._http
            return http, http
        return http, await self._grpc.start(host, grpc_port)

    def connections(self) -> dict[tuple[str, ...], int]:
        """Open connections by port. grpcio does not tell of its own."""
        counted: dict[tuple[str, ...], int] = {("rest",): self._http.open_connections}
        if self._grpc is not self._http:
            counted[("grpc",)] = self._grpc.open_connections
        return counted

    def draining(self) -> Sequence[DrainingPort | DrainingGrpcio]:
        """The ports, for a drain."""
        ports: list[DrainingPort | DrainingGrpcio] = [DrainingPort(self._http)]
        if self._grpcio is not None:
            ports.append(DrainingGrpcio(self._grpcio))
        elif self._grpc is not self._http:
            ports.append(DrainingPort(self._grpc))
        return ports

    async def close(self) -> None:
        """Ends every connection."""
        if self._grpcio is not None:
            await self._grpcio.stop(0)
        await self._http.close()
        if self._grpc is not self._http:
            await self._grpc.close()
        if self._calls is not None:
            await self._calls.close()
