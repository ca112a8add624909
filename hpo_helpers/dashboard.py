"""optuna-dashboard on a journal, for as long as a lesson needs it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from hpo_helpers.journal import open_journal

HOST = "127.0.0.1"  #: this machine alone: the dashboard asks for no password, and can delete studies


class Dashboard:
    """Show the studies of a journal in a browser, while they grow.

    The server is a thread of this process: it ends with the program, or by `close`. From a shell,
    ``optuna-dashboard FILE`` does the same.

    Parameters
    ----------
    journal
        The journal file, as `open_journal` takes it.
    port
        0 takes any that is free.

    Raises
    ------
    FileNotFoundError
        If there is no such file: it would be made, empty.
    OSError
        If the port is taken.

    Examples
    --------
    >>> with Dashboard("study.journal") as dashboard:  # doctest: +SKIP
    ...     print(dashboard.url)
    http://127.0.0.1:40123/dashboard
    """

    def __init__(self, journal: str | os.PathLike[str], port: int = 0) -> None:
        from wsgiref.simple_server import WSGIRequestHandler, make_server

        from optuna_dashboard import wsgi

        class Quiet(WSGIRequestHandler):
            def log_message(self, *_arguments: object) -> None:
                """Write no line for each request below a notebook's cell."""

        if not Path(journal).exists():
            raise FileNotFoundError(
                f"there is no journal to show, got {str(journal)!r}: make a study in it first"
            )
        self._server = make_server(HOST, port, wsgi(open_journal(journal)), handler_class=Quiet)
        self.url = f"http://{HOST}:{self._server.server_port}/dashboard"
        self._thread = threading.Thread(target=self._server.serve_forever, name="dashboard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server and free its port. It may be called twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Dashboard:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
