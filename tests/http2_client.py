"""An HTTP/2 client over a real socket, built on the `h2` package, that tests steer frame by frame.

client = Http2Client(await served.connect())
await client.start()
number = client.request(body=b"abc")
status, fields, body = await client.answer(number)
"""

import asyncio
from dataclasses import dataclass, field
from typing import TypeAlias

import h2.config
import h2.connection
import h2.events
import h2.settings

from tests.wire_server import Client

Settings: TypeAlias = dict[h2.settings.SettingCodes | int, int]


@dataclass
class Answered:
    """What came back on one stream."""

    fields: dict[str, str] = field(default_factory=dict)
    interim: list[str] = field(default_factory=list)
    """Statuses before the answer's."""
    body: bytes = b""
    is_whole: bool = False
    reset: int | None = None


class Http2Client:
    """One connection. Windows of what it gets are widened as it reads, unless told otherwise."""

    def __init__(self, client: Client, *, reads_bodies: bool = True) -> None:
        self.client = client
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        )
        self.answers: dict[int, Answered] = {}
        self.goaways: list[tuple[int, int]] = []
        """(last stream, error code) of each GOAWAY."""
        self._reads_bodies = reads_bodies
        self._waiting: list[h2.events.Event] = []

    async def start(self, settings: Settings | None = None) -> None:
        """Says hello; the settings of both hold when it returns."""
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
        self.flush()
        unconfirmed = 2 if settings else 1
        while unconfirmed:
            event = await self.event()
            assert event is not None, "the connection ended"
            unconfirmed -= isinstance(event, h2.events.SettingsAcknowledged)

    def flush(self) -> None:
        """Sends what `h2` has to say."""
        self.client.send(self.h2.data_to_send())

    def request(
        self,
        path: str = "/now",
        body: bytes = b"",
        *fields: tuple[str, str],
        method: str = "POST",
        ends: bool = True,
    ) -> int:
        """Opens a stream and sends what the windows allow; gives its number."""
        number = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "a")]
        self.h2.send_headers(number, [*head, *fields], end_stream=ends and not body)
        self.answers[number] = Answered()
        if body:
            self.send(number, body, ends=ends)
        self.flush()
        return number

    def send(self, number: int, body: bytes, *, ends: bool = True) -> None:
        """Sends a part of a body that the windows allow, in frames of the size they allow."""
        size = self.h2.max_outbound_frame_size
        for at in range(0, len(body), size):
            part = body[at : at + size]
            self.h2.send_data(number, part, end_stream=ends and at + size >= len(body))
        self.flush()

    async def send_all(self, number: int, body: bytes) -> None:
        """Sends a body as the server widens its windows, until it wants no more of it."""
        answer = self.answers[number]
        while body and answer.reset is None:
            size = self.h2.local_flow_control_window(number)
            if size:
                part, body = body[:size], body[size:]
                self.send(number, part, ends=not body)
            else:
                await self.event()

    async def event(self) -> h2.events.Event | None:
        """Reads until something happened and notes it; None: the server ended the connection."""
        while not self._waiting:
            try:
                header = await self.client.reader.readexactly(9)
                payload = await self.client.reader.readexactly(int.from_bytes(header[:3], "big"))
            except (asyncio.IncompleteReadError, ConnectionResetError):
                return None
            self._waiting = self.h2.receive_data(header + payload)
            self.flush()
        event = self._waiting.pop(0)
        self._note(event)
        return event

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            assert event.last_stream_id is not None
            self.goaways.append((event.last_stream_id, int(event.error_code or 0)))
            # `h2` takes the connection for closed; open streams are answered all the same.
            self.h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
            return
        answer = self.answers.get(getattr(event, "stream_id", None) or 0)
        if answer is None:
            return
        if isinstance(event, h2.events.InformationalResponseReceived):
            answer.interim.append(dict(_texts(event.headers))[":status"])
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            answer.fields.update(_texts(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data
            if self._reads_bodies and event.flow_controlled_length:
                self.h2.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id or 0
                )
                self.flush()
        elif isinstance(event, h2.events.StreamEnded):
            answer.is_whole = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset = int(event.error_code or 0)

    async def answer(self, number: int) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and body of a stream's whole answer."""
        answer = self.answers[number]
        while not answer.is_whole:
            assert answer.reset is None, f"stream {number} was reset: {answer.reset}"
            assert await self.event() is not None, "the connection ended"
        return int(answer.fields[":status"]), answer.fields, answer.body

    async def reset(self, number: int) -> int:
        """The code that a stream is reset with."""
        answer = self.answers[number]
        while answer.reset is None:
            assert await self.event() is not None, "the connection ended"
        return answer.reset

    async def end(self) -> int | None:
        """The error code that the connection ends with; None: it ends without a word."""
        while await self.event() is not None:
            pass
        return self.goaways[-1][1] if self.goaways else None


def _texts(headers: object) -> list[tuple[str, str]]:
    assert isinstance(headers, list)
    return [(str(name), str(value)) for name, value in headers]
