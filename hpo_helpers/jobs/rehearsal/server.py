"""The HTTP server of a rehearsal: ``SageMaker.*`` is answered here, everything else by moto."""

from __future__ import annotations

import json
import threading
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hpo_helpers.jobs.rehearsal.model import (
    ServiceError,
    check_request,
    refusal,
    service_model,
    to_json,
)

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]
HOST = "127.0.0.1"
NO_KEY = "the request carries no key of this rehearsal"
POLL_SECONDS = 0.02  #: how soon a closing server notices
JSON = "application/x-amz-json-1.1"


class Server:
    """Serves one rehearsal on a free port of the loopback interface, in threads of this process.

    Parameters
    ----------
    access_key
        Requests that do not carry it are refused: a page in a browser, or another user of this machine, could
        have scripts run otherwise.
    answer
        Called with operation and request for each operation of SageMaker; it returns the response.

    Raises
    ------
    ImportError
        If moto is not installed.
    """

    def __init__(self, access_key: str, answer: Answer) -> None:
        try:
            from moto.server import DomainDispatcherApplication, create_backend_app
            from werkzeug.serving import WSGIRequestHandler, make_server
        except ImportError as error:
            raise ImportError(f"a rehearsal needs moto: pip install 'hpo_helpers[aws]' ({error})") from error

        class QuietHandler(WSGIRequestHandler):
            def log(self, *arguments: Any) -> None:
                """Print nothing: standard error is the notebook's."""

        front = _Front(access_key, answer, DomainDispatcherApplication(create_backend_app))
        self._server = make_server(HOST, 0, front, threaded=True, request_handler=QuietHandler)
        self.url = f"http://{HOST}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="rehearsal", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer no more requests."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Front:
    def __init__(self, access_key: str, answer: Answer, moto: Any) -> None:
        self._access_key = access_key
        self._answer = answer
        self._moto = moto
        self._moto_lock = threading.Lock()  # moto reads dicts that another thread may change

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self._is_known(environ):
            return _deny(start_response, "HTTP_X_AMZ_TARGET" in environ)
        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
        if service != "SageMaker":
            with self._moto_lock:
                return list(self._moto(environ, start_response))
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        try:
            return _respond(start_response, 200, self._answered(operation, body))
        except ServiceError as error:
            return _respond(start_response, 400, _error(error.code, str(error)))
        except Exception:  # boto3 tries it again, and shows the traceback in the end
            return _respond(start_response, 500, _error("InternalFailure", traceback.format_exc()))

    def _is_known(self, environ: Mapping[str, Any]) -> bool:
        signed = environ.get("HTTP_AUTHORIZATION", "") + environ.get("QUERY_STRING", "")  # a presigned URL
        return self._access_key in signed

    def _answered(self, operation: str, body: bytes) -> dict[str, Any]:
        if operation not in service_model().operation_names:
            raise refusal(f"an operation {operation!r}, which botocore does not know either")
        try:
            request = json.loads(body)
        except ValueError as error:
            raise ServiceError("SerializationException", f"the request is no JSON: {error}") from error
        check_request(operation, request)
        return to_json(self._answer(operation, request))


def _deny(start_response: Callable[..., Any], in_json: bool) -> Iterable[bytes]:
    if in_json:
        return _respond(start_response, 403, _error("AccessDeniedException", NO_KEY))
    error = (
        f"<Error><Code>AccessDenied</Code><Message>{NO_KEY}</Message></Error>"  # S3, STS and IAM speak XML
    )
    return _send(start_response, 403, f"<ErrorResponse>{error}</ErrorResponse>".encode(), "application/xml")


def _respond(start_response: Callable[..., Any], status: int, content: Mapping[str, Any]) -> Iterable[bytes]:
    return _send(start_response, status, json.dumps(content).encode(), JSON)


def _send(start_response: Callable[..., Any], status: int, body: bytes, content_type: str) -> Iterable[bytes]:
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("x-amzn-RequestId", str(uuid.uuid4())),
    ]
    start_response(f"{status} {'OK' if status == 200 else 'Error'}", headers)
    return [body]


def _error(code: str, message: str) -> dict[str, str]:
    return {"__type": code, "message": message}
