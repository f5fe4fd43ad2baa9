"""What every request passes before and after its route: HEAD, queries that are understood, errors as JSON, a measure.

Every error is `{"error": "..."}`; the text names what was given and what is allowed.
"""

import time
from collections.abc import Callable, Sequence
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST = 80  # characters of what was given that an error repeats


def answer(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON."""
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def refuse(reason: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """An error."""
    return answer({"error": reason}, status, headers)


def install(app: FastAPI, seen: Callable[[str, int, float], None]) -> None:
    """Let every request to `app` pass this; `seen(path template, status, seconds)` is called after each."""
    app.add_middleware(Front, routes=app.router.routes, seen=seen)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_failure)


class Front:
    """ASGI: a HEAD is its GET without the body, and what the route does not know in a query is refused."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], seen: Callable[[str, int, float], None]) -> None:
        self._app, self._routes, self._seen = app, routes, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, head = time.perf_counter(), 500, scope["method"] == "HEAD"
        scope = {**scope, "method": "GET"} if head else scope

        async def pass_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif head:
                message = {**message, "body": b""}
            await send(message)

        try:
            await (self._refusal(scope) or self._app)(scope, receive, pass_on)
        finally:
            self._seen(template(scope), status, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> Response | None:
        if "\ufffd" in scope["path"] and not _is_utf8(scope["raw_path"]):  # two ids would become one
            return refuse(f"the path {_short(scope['path'])} is not UTF-8 behind its percent-escapes", 400)
        given = [name for name, _ in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)]
        route = next((r for r in self._routes if r.matches(scope)[0] is Match.FULL), None) if given else None
        if route is None:
            return None  # which a route, or the lack of one, will answer
        scope["route"] = route
        known = [field.alias for field in route.dependant.query_params] if isinstance(route, APIRoute) else []
        for name in given:
            if name not in known:
                there = f"there is {', '.join(known)}" if known else "there are none"
                return refuse(f"unknown query parameter {_short(name)} at {template(scope)}: {there}", 422)
            if given.count(name) > 1:
                return refuse(f"the query parameter {name} is given {given.count(name)} times at {template(scope)}", 422)
        return None


def template(scope: Scope) -> str:
    """The route's path, such as `/feed/{user_id}`; `unknown` if there is no such route."""
    return str(getattr(scope.get("route"), "path_format", "unknown"))


def _is_utf8(path: bytes) -> bool:
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return False
    return True


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(str(value))} characters)"


def _on_invalid(request: Request, error: Exception) -> Response:
    """The parameter, its value and what it may be, which is its description."""
    assert isinstance(error, RequestValidationError)
    dependant = request.scope["route"].dependant
    allowed = {field.alias: field.field_info.description for field in (*dependant.path_params, *dependant.query_params)}
    reasons = [f"{e['loc'][-1]}={_short(e['input'])} is not {allowed[e['loc'][-1]]}" for e in error.errors()]
    return refuse("; ".join(reasons), 422)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        paths = sorted({r.path_format for r in request.app.router.routes if isinstance(r, APIRoute)})
        return refuse(f"there is no path {_short(request.url.path)}: there are {', '.join(paths)}", 404)
    if error.status_code == 405:
        reason = f"{_short(request.method)} is not possible at {template(request.scope)}: use GET or HEAD"
        return refuse(reason, 405, {"Allow": "GET, HEAD"})
    return refuse(str(error.detail), error.status_code)


def _on_failure(request: Request, error: Exception) -> Response:
    return refuse("this server has failed: its log says why", 500)
