"""A raw ASGI app on uvicorn (uvloop, httptools) that answers every request with the same bytes.

Not a benchmark itself: it is what HTTP by uvicorn costs without a framework and without any
inference, so that the figures of REST can be ratios of one run. The body is read to its end, as a
server has to that uses it. Prints its port.

    python -m benchmarks.peers.asgi_echo ANSWER_FILE CONTENT_TYPE
"""

import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import uvicorn

Message: TypeAlias = dict[str, object]
App: TypeAlias = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


def echo(answer: bytes, content_type: str) -> App:
    """The app: reads the request's body, then sends `answer`."""
    start: Message = {
        "type": "http.response.start",
        "status": 200,
        "headers": [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(answer)).encode()),
        ],
    }
    body: Message = {"type": "http.response.body", "body": answer}

    async def app(
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(start)
        await send(body)

    return app


def main(answer: bytes, content_type: str) -> None:
    """Serves until the process is ended."""
    config = uvicorn.Config(
        echo(answer, content_type),
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        print(listening.getsockname()[1], flush=True)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_bytes(), sys.argv[2])
