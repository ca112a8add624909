"""The fork server of a launcher, as the launcher sees it."""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hpo_helpers.jobs.local.channel import Inbox
from hpo_helpers.jobs.local.process import describe_exit, last_lines

SERVER_CODE = (
    "import json, sys; setup = json.loads(sys.argv.pop()); sys.path[:] = setup['path']; "
    "from hpo_helpers.jobs.local.forkserver import main; main(setup['control'], setup['preload'])"
)
COMMAND = struct.Struct("!cQ")  #: FORK or KILL, and the job's id
FORK, KILL = b"F", b"K"
#: Jobs of more threads are many times slower, and give other bits.
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
CLOSE_SECONDS = 10.0


class Server:
    def __init__(self, preload: Sequence[str]) -> None:
        self.ready = False
        self.failure: str | None = None
        self._preload = list(preload)
        self._owner = os.getpid()
        self._output = tempfile.TemporaryFile()
        channel, channel_of_server = socket.socketpair()
        self.inbox = Inbox(channel)
        path = [*map(str, sys.path), str(Path(__file__).parents[3])]
        setup = {"control": channel_of_server.fileno(), "path": path, "preload": self._preload}
        with channel_of_server:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-c", SERVER_CODE, json.dumps(setup)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=[channel_of_server.fileno()],
                env={**os.environ, **ONE_THREAD},
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
            )

    def command(self, kind: bytes, job_id: int, descriptors: Sequence[int] = ()) -> None:
        """Have a job forked or killed."""
        socket.send_fds(self.inbox.channel, [COMMAND.pack(kind, job_id)], descriptors)

    def describe_loss(self) -> str:
        """Return how a server ended that nobody closed."""
        during = "" if self.ready else f" while it preloaded {self._preload} (set preload=[…])"
        ending = describe_exit(self.process.wait())
        return f"the fork server {ending}{during}{last_lines(self._output)}"

    def close(self) -> None:
        """End the server, which ends its jobs."""
        if os.getpid() != self._owner:  # a fork of this process has no say
            return
        with contextlib.suppress(OSError):  # a fork of this process may hold it open
            self.inbox.channel.shutdown(socket.SHUT_RDWR)
        self.inbox.close()
        try:
            self.process.wait(CLOSE_SECONDS if self.ready else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._output.close()
