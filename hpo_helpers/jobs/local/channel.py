"""Messages between two processes: bytes over a socket, each message after its length."""

from __future__ import annotations

import collections
import contextlib
import functools
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

import cloudpickle

HEADER_BYTES = 8
CHUNK_BYTES = 1 << 16

COMMAND = struct.Struct("!cQ")  #: what a launcher tells its fork server: FORK or KILL, and the job's id
FORK, KILL = b"F", b"K"


def pack(message: Any) -> bytes:
    """Return a message as it goes over a socket."""
    content = cloudpickle.dumps(message)
    return len(content).to_bytes(HEADER_BYTES, "big") + content


def send(channel: socket.socket, message: Any) -> None:
    """Send a message whole; this waits while the other side does not read."""
    channel.sendall(pack(message))


def receive(channel: socket.socket) -> Any:
    """Wait for one message, the only one that is sent this way, and return it."""
    with channel.makefile("rb") as stream:
        size = int.from_bytes(stream.read(HEADER_BYTES), "big")
        return pickle.loads(stream.read(size))


class Inbox:
    """The messages that arrive at a socket, none of them lost when Ctrl-C interrupts the reading."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.ended = False  #: whether the other side has closed
        self._chunks: collections.deque[bytes] = collections.deque()

    def deliver(self, handle: Callable[[bytes], None]) -> None:
        """Call `handle` with each message that is here whole.

        After an interrupted call the next one delivers the same messages again, so handling a message twice
        must change nothing.
        """
        self._read()
        rest = b"".join(self._chunks)
        while len(rest) >= HEADER_BYTES:
            end = HEADER_BYTES + int.from_bytes(rest[:HEADER_BYTES], "big")
            if len(rest) < end:
                break
            handle(rest[HEADER_BYTES:end])
            rest = rest[end:]
        self._chunks = collections.deque([rest])

    def _read(self) -> None:
        if self.ended or self.channel.fileno() < 0:
            return
        read = functools.partial(self.channel.recv, CHUNK_BYTES, socket.MSG_DONTWAIT)
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            # A single call into C: no KeyboardInterrupt can fall between reading a chunk and keeping it.
            self._chunks.extend(iter(read, b""))
            self.ended = True
