"""The HTTP server of a rehearsal: ``SageMaker.*`` is answered here, all else by moto."""

import io
import json
import threading
import traceback
from collections.abc import Callable
from typing import Any

from hpo_helpers.jobs.rehearsal.requests import Fields, ServiceError

HOST = "127.0.0.1"
POLL_SECONDS = 0.02  #: how soon a closing server notices
DENIED = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
Answer = Callable[[str, Fields], Fields]


def serve(key: str, answer: Answer) -> Any:
    """Return a server of werkzeug's on a free port of the loopback interface, in threads.

    Requests without `key` are refused: a page in a browser, or another user, could have scripts
    run otherwise. `answer` is called with operation and request of SageMaker.
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
    front = _Front(key, answer, DomainDispatcherApplication(create_backend_app))
    server = make_server(HOST, 0, front, threaded=True, request_handler=quiet)
    threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
    return server


class _Front:
    def __init__(self, key, answer, moto):
        self._key, self._answer, self._moto = key, answer, moto
        self._lock = threading.Lock()  # moto reads dicts that another thread may change

    def __call__(self, environ, start_response):
        from werkzeug.wrappers import Response

        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        service, _, operation = environ.get("HTTP_X_AMZ_TARGET", "").partition(".")
        if self._key not in environ.get("HTTP_AUTHORIZATION", "") + environ["QUERY_STRING"]:
            response = Response(DENIED, 403)
        elif service == "SageMaker":
            response = Response(*self._answered(operation, body))
        else:
            with self._lock:
                response = Response.from_app(self._moto, environ, buffered=True)
        if operation == "FilterLogEvents" and response.status_code == 200:
            prefix, page = json.loads(body).get("logStreamNamePrefix", ""), response.get_json(force=True)
            named = [each for each in page["events"] if each["logStreamName"].startswith(prefix)]
            response.set_data(json.dumps(page | {"events": named}))  # moto ignores the prefix
        return response(environ, start_response)

    def _answered(self, operation, body):
        try:
            answer, status = self._answer(operation, json.loads(body)), 200
        except ServiceError as error:
            answer, status = {"__type": error.code, "message": str(error)}, 400
        except Exception:  # boto3 tries it again, and shows the traceback in the end
            answer, status = {"__type": "InternalFailure", "message": traceback.format_exc()}, 500
        return json.dumps(answer, default=lambda time: time.timestamp()), status
