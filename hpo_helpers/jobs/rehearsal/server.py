"""The HTTP server of a rehearsal: ``SageMaker.*`` is answered here, all else by moto."""

from __future__ import annotations

import io
import json
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError

HOST = "127.0.0.1"
POLL_SECONDS = 0.02  #: how soon a closing server notices
NO_KEY = "the request carries no key of this rehearsal"


class Server:
    """Serves one rehearsal on a free port of the loopback interface, in threads of this process.

    Requests without `key` are refused: a page in a browser, or another user, could have scripts run
    otherwise. `answer` is called with operation and request of SageMaker.
    """

    def __init__(self, key: str, answer: Callable[[str, Fields], Fields]) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class QuietHandler(WSGIRequestHandler):
            def log(self, *arguments: Any) -> None:
                """Print nothing: standard error is the notebook's."""

        self._key = key
        self._answer = answer
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()  # moto reads dicts that another thread may change
        options = {"threaded": True, "request_handler": QuietHandler}
        self._server = make_server(HOST, 0, self._front, **options)
        self.url = f"http://{HOST}:{self._server.server_port}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(POLL_SECONDS,), daemon=True).start()

    def close(self) -> None:
        """Answer no more requests."""
        self._server.shutdown()
        self._server.server_close()

    def _front(self, environ: Fields, start_response: Callable[..., Any]) -> Iterable[bytes]:
        from werkzeug.wrappers import Response

        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
        signed = environ.get("HTTP_AUTHORIZATION", "") + environ.get("QUERY_STRING", "")
        if self._key not in signed:
            response = Response(_denied(is_json=bool(service)), 403)
        elif service == "SageMaker":
            content, status = self._answered(operation, body)
            text = json.dumps(content, default=lambda time: time.timestamp())
            response = Response(text, status)
        else:
            with self._lock:
                response = Response.from_app(self._moto, environ, buffered=True)
        if operation == "FilterLogEvents":
            prefix = json.loads(body).get("logStreamNamePrefix", "")
            response.set_data(_with_prefix(response.get_data(), prefix))
        return response(environ, start_response)

    def _answered(self, operation: str, body: bytes) -> tuple[Fields, int]:
        try:
            return self._answer(operation, json.loads(body)), 200
        except ServiceError as error:
            return {"__type": error.code, "message": str(error)}, 400
        except Exception:  # boto3 tries it again, and shows the traceback in the end
            return {"__type": "InternalFailure", "message": traceback.format_exc()}, 500


def _with_prefix(answer: bytes, prefix: str) -> str:
    """Return a page of events without those of other streams, whose prefix moto ignores."""
    page = json.loads(answer)
    events = page.get("events", [])
    page["events"] = [each for each in events if each["logStreamName"].startswith(prefix)]
    return json.dumps(page)


def _denied(is_json: bool) -> str:
    if is_json:
        return json.dumps({"__type": "AccessDeniedException", "message": NO_KEY})
    error = f"<Error><Code>AccessDenied</Code><Message>{NO_KEY}</Message></Error>"
    return f"<ErrorResponse>{error}</ErrorResponse>"  # S3, STS and IAM speak XML
