"""The HTTP server of a rehearsal: ``SageMaker.*`` is answered here, all else by moto."""

import io
import json
import threading
import traceback
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError

HOST = "127.0.0.1"
POLL_SECONDS = 0.02  #: how soon a closing server notices
STATUS = {"AccessDenied": 403, "InternalFailure": 500, "NotImplemented": 501}  #: of all others: 400
Answer = Callable[[str, Fields], Fields]


def serve(key: str, answer: Answer, streams: Callable[..., list[str]]) -> Any:
    """Return a server of werkzeug's on a free port of the loopback interface, in threads.

    Requests without `key` are refused: a page in a browser, or another user, could have scripts
    run otherwise. `answer` is called with operation and request of SageMaker,
    `streams` with group and beginning, and returns the names of streams of lines.
    """
    try:
        from moto.moto_api._internal.models import moto_api_backend
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server
    except ImportError as error:
        message = f"a rehearsal needs moto: pip install 'hpo_helpers[aws]' ({error})"
        raise ImportError(message) from error

    # It prints nothing: standard error is the notebook's.
    quiet = type("QuietHandler", (WSGIRequestHandler,), {"log": lambda *_: None})
    moto_api_backend.reset()  # what an earlier rehearsal left
    front = _Front(key, answer, streams, DomainDispatcherApplication(create_backend_app))
    server = make_server(HOST, 0, front, threaded=True, request_handler=quiet)
    threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
    return server


class _Front:
    def __init__(self, key, answer, streams, moto):
        self._key, self._answer, self._streams, self._moto = key, answer, streams, moto
        self._lock = threading.Lock()  # moto reads dicts that another thread may change

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        try:
            response = self._respond(environ, body)
        except ServiceError as error:
            response = _failure(environ, error)
        except Exception:  # boto3 tries it again, and shows the traceback in the end
            response = _failure(environ, ServiceError(traceback.format_exc(), "InternalFailure"))
        return response(environ, start_response)

    def _respond(self, environ, body):
        from werkzeug.wrappers import Response

        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
        if self._key not in environ.get("HTTP_AUTHORIZATION", "") + environ["QUERY_STRING"]:
            raise ServiceError("Access Denied", "AccessDenied")
        if service == "SageMaker":
            answer = self._answer(operation, json.loads(body))
            return Response(json.dumps(answer, default=lambda time: time.timestamp()))
        if operation == "FilterLogEvents":
            body = json.dumps(self._with_streams_named(json.loads(body))).encode()
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        with self._lock:
            return Response.from_app(self._moto, environ, buffered=True)

    def _with_streams_named(self, request):
        """Name the streams by their whole names, as moto drops the beginning of names."""
        if prefix := request.pop("logStreamNamePrefix", None):
            place = {"logGroupName": request["logGroupName"], "logStreamNamePrefix": prefix}
            request["logStreamNames"] = self._streams(**place) or [prefix]
        # AWS has interleaved them since 2019, whatever it is asked for.
        return request | {"interleaved": True}


def _failure(environ, error):
    """Return an error as the service would say it."""
    from werkzeug.wrappers import Response

    text = json.dumps({"__type": error.code, "message": str(error)})
    if "json" not in environ.get("CONTENT_TYPE", ""):
        text = f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error>"
        text = f"<ErrorResponse>{text}</ErrorResponse>"
    return Response(text, STATUS.get(error.code, 400))
