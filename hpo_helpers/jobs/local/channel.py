"""Messages between two processes: over a socket, each after its length."""

import contextlib
import functools
import pickle
import socket
from collections.abc import Callable
from typing import Any

import cloudpickle

HEADER_BYTES = 8
CHUNK_BYTES = 1 << 16


def send(channel: socket.socket, message: Any) -> None:
    """Send a message whole; this waits while the other side does not read."""
    content = cloudpickle.dumps(message)
    channel.sendall(len(content).to_bytes(HEADER_BYTES, "big") + content)


class Inbox:
    """The messages that arrive at a socket, none of them lost when Ctrl-C interrupts."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.ended = False  #: whether one of the two sides has closed
        self._chunks = []

    def deliver(self, handle: Callable[[Any], None]) -> None:
        """Call `handle` with each message that is here whole.

        After an interruption the same messages are delivered again, so handling one twice
        must change nothing.
        """
        read = functools.partial(self.channel.recv, CHUNK_BYTES, socket.MSG_DONTWAIT)
        with contextlib.suppress(OSError):  # there is no more for now, or this side has closed
            # One call into C: no KeyboardInterrupt falls between reading and keeping.
            self._chunks.extend(iter(read, b""))
            self.ended = True
        rest = b"".join(self._chunks)
        while len(rest) >= HEADER_BYTES:
            end = HEADER_BYTES + int.from_bytes(rest[:HEADER_BYTES], "big")
            if len(rest) < end:
                break
            handle(pickle.loads(rest[HEADER_BYTES:end]))
            rest = rest[end:]
        self._chunks = [rest]

    def close(self) -> None:
        self.ended = True
        self.channel.close()
