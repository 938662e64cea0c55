"""How does the page get into a browser? A server on 127.0.0.1, with a token in its address, that writes nothing."""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
import webbrowser
from functools import cache
from typing import TYPE_CHECKING

from engram_interp.report.explorer.exploration import Exploration
from engram_interp.report.explorer.page import matrix_json, page

if TYPE_CHECKING:
    from starlette.applications import Starlette

HOST = "127.0.0.1"
LACKS = "The address lacks the token that was printed."
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",  # an address holds the token
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def serve(found: Exploration, port: int, browse: bool) -> None:
    """See `Exploration.serve`."""
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError("serving takes starlette and uvicorn: pip install 'engram-interp[explore]'") from error
    token = secrets.token_urlsafe(24)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen()  # a browser may ask before the server is up
        address = f"http://{HOST}:{listening.getsockname()[1]}/?token={token}"
        print(f"The explorer is at {address}  (Ctrl-C ends it)", flush=True)  # noqa: T201
        if browse:
            webbrowser.open(address)
        server = uvicorn.Server(uvicorn.Config(application(found, token), log_level="warning"))
        server.run(sockets=[listening])


def application(found: Exploration, token: str) -> Starlette:
    """The server's pages: the explorer itself, and a matrix that was not looked into before.

    Args:
        found: what is shown.
        token: what a request must bring, as `?token=`.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    one_at_a_time = threading.Lock()
    shown = cache(lambda: page(found, is_live=True))

    def is_allowed(request: Request) -> bool:
        return hmac.compare_digest(request.query_params.get("token", "").encode(), token.encode())

    def show(request: Request) -> Response:
        if not is_allowed(request):
            return PlainTextResponse(LACKS, 403, HEADERS)
        return HTMLResponse(shown(), headers=HEADERS)

    def matrix(request: Request) -> Response:
        if not is_allowed(request):
            return JSONResponse({"error": LACKS}, 403, HEADERS)
        name, key = (request.query_params.get(one, "") for one in ("memory", "key"))
        with one_at_a_time:
            try:
                return Response(matrix_json(found, name, key), media_type="application/json", headers=HEADERS)
            except KeyError as error:
                return JSONResponse({"error": str(error.args[0])}, 404, HEADERS)
            except (RuntimeError, ValueError) as error:  # as where the model has changed, or is being edited
                return JSONResponse({"error": str(error)}, 409, HEADERS)

    routes = [Route("/", show, methods=["GET"]), Route("/matrix", matrix, methods=["GET"])]
    # A page elsewhere may have its own name point here, but not change what the browser says it asked for.
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[hosts])
