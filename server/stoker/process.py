"""`stoker serve` as a process: log, signals, the ready line, and the code it ends with.

Runs one `Server` on an event loop of its own, from its start to a signal, to a start that failed,
or to a device fault after which only a new process helps. The codes are documented in
docs/operating.md.
"""

import asyncio
import gc
import logging
import os
import signal
import ssl
import sys
import threading
import time
from dataclasses import replace
from typing import Final, NoReturn

import uvloop

from stoker import descriptors
from stoker.address import reachable
from stoker.allocator import keep_freed_memory
from stoker.app import Addresses, Server, memory_fit, open_repository, open_runtime
from stoker.lifecycle.device_fault import LEAVE_WITHIN_S
from stoker.runtime.installation import BrokenInstallation
from stoker.runtime.session import Runtime
from stoker.settings import Settings
from stoker.telemetry import log

logger: Final = logging.getLogger(__name__)

EXIT_DRAINED: Final = 0
EXIT_BAD_USAGE: Final = 2
EXIT_NOT_THERE: Final = 3
EXIT_DEVICE_FAILED: Final = 70
EXIT_INTERRUPTED: Final = 130


def serve(
    settings: Settings, tls: ssl.SSLContext | None = None, runtime: Runtime | None = None
) -> int:
    """Serves until SIGTERM or SIGINT, with `tls` over TLS only; gives the exit code.

    Without a `runtime` models are opened by ONNX Runtime. After a device fault it does not return:
    the process ends with EXIT_DEVICE_FAILED.
    """
    form = log.set_up(settings.log_format, settings.log_level)
    keep_freed_memory()
    settings = _within_descriptors(settings)
    try:
        runtime = runtime or open_runtime(settings)
    except BrokenInstallation as error:
        log.event(logger, "start_failed", str(error), level=logging.CRITICAL)
        return EXIT_BAD_USAGE
    code = uvloop.run(_serve(settings, runtime, form, tls))
    if code != EXIT_DRAINED:
        _leave(code)  # a load may be under way in a thread, and the interpreter would wait for it
    return code


def _within_descriptors(settings: Settings) -> Settings:
    """The settings with as many connections as the process can have; says so if they are fewer."""
    limit = descriptors.raise_limit()
    log.event(logger, "descriptors", "descriptors allowed", level=logging.DEBUG, limit=limit)
    most = descriptors.connections_within(settings.max_connections, limit)
    if most < settings.max_connections:
        log.event(
            logger,
            "few_descriptors",
            f"expected descriptors for {settings.max_connections} connections, got a limit of "
            f"{limit}: at most {most} are served at once",
            level=logging.WARNING,
            limit=limit,
            max_connections=most,
        )
    return replace(settings, max_connections=most)


def _leave(code: int) -> NoReturn:
    """Ends the process without waiting for threads."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _serve(
    settings: Settings, runtime: Runtime, form: log.Format, tls: ssl.SSLContext | None
) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def signalled(number: signal.Signals) -> None:
        if stop.is_set():
            log.event(logger, "interrupted", f"a second {number.name}: exiting at once")
            os._exit(EXIT_INTERRUPTED)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled, number)
    repository = await loop.run_in_executor(None, open_repository, settings)
    broken = asyncio.Event()

    def leave_soon() -> None:
        # A thread, because the loop may be what hangs. Teardown in a dead context may hang as well
        # or abort, so nothing of it runs.
        end = threading.Timer(LEAVE_WITHIN_S, os._exit, (EXIT_DEVICE_FAILED,))
        end.daemon = True
        end.start()
        broken.set()

    try:
        server = Server(
            settings,
            runtime,
            repository,
            tls=tls,
            memory=memory_fit(settings, runtime),
            on_device_fault=leave_soon,
        )
    except ValueError as error:
        log.event(logger, "start_failed", str(error), level=logging.CRITICAL)
        return EXIT_BAD_USAGE
    try:
        addresses = await server.start()
    except OSError as error:
        log.event(logger, "start_failed", f"cannot listen: {error}", level=logging.CRITICAL)
        await server.close()
        return EXIT_BAD_USAGE
    _say_when_ready(server, settings, addresses, form)
    loading = asyncio.create_task(server.load(), name="load models")
    stopping = asyncio.create_task(stop.wait(), name="wait for a signal")
    breaking = asyncio.create_task(broken.wait(), name="wait for a device fault")
    await asyncio.wait({loading, stopping, breaking}, return_when=asyncio.FIRST_COMPLETED)
    if loading.done() and not broken.is_set():
        await loading
        # A full collection looks at all that start-up made, 35 ms for 51,000 objects, and the loop
        # stands still (benchmarks/results/0003-loop-lag.md). That lives as long as the process.
        gc.collect()
        gc.freeze()
        state = server.health.readiness()
        if settings.exit_on_error and not state.ready and not stop.is_set():
            for reason in state.reasons:
                log.event(logger, "start_failed", reason, level=logging.CRITICAL)
            stopping.cancel()
            breaking.cancel()
            await server.close()
            return EXIT_NOT_THERE
    await asyncio.wait({stopping, breaking}, return_when=asyncio.FIRST_COMPLETED)
    if broken.is_set():
        await server.abandon()
    else:
        await server.drain()
    if broken.is_set():  # it may have come while the server drained
        _leave(EXIT_DEVICE_FAILED)
    breaking.cancel()
    if not loading.done():
        _leave(EXIT_DRAINED)  # nothing is served; a thread opens a model that nobody waits for
    if not await server.close():
        _leave(EXIT_DRAINED)  # a run goes on whose requests have been answered
    return EXIT_DRAINED


def _say_when_ready(
    server: Server, settings: Settings, addresses: Addresses, form: log.Format
) -> None:
    """Prints the ready line, once."""
    said = False

    def look() -> None:
        nonlocal said
        if said or not server.health.readiness().ready:
            return
        said = True
        line = log.ready_line(
            form,
            http=reachable(settings.host, addresses.http),
            grpc=reachable(settings.host, addresses.grpc),
            metrics=reachable(settings.host, addresses.metrics),
            now=time.time(),
        )
        server.say(line)

    server.health.watch(look)
