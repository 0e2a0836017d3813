"""The dashboard's page: a few static files, served under a policy that allows nothing from elsewhere."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

PATH = "/admin/training"
FILES = {
    "dashboard.css": "text/css",
    "dashboard.js": "text/javascript",
    "charts.js": "text/javascript",
    "dom.js": "text/javascript",
    "sections.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": POLICY, "cache-control": "no-cache"}


def page_routes() -> list[Route]:
    """The page, its files, and the way to it."""
    folder = Path(__file__).parent
    contents = {name: (folder / name).read_bytes() for name in ("index.html", *FILES)}

    async def page(_: Request) -> Response:
        return Response(contents["index.html"], headers=_HEADERS, media_type="text/html")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            return Response("Not found", 404, _HEADERS, "text/plain")
        return Response(contents[name], headers=_HEADERS, media_type=FILES[name])

    async def away(_: Request) -> Response:
        return RedirectResponse(PATH)

    return [
        Route(PATH, page, methods=["GET"]),
        Route(f"{PATH}/{{name}}", file, methods=["GET"]),
        Route("/", away, methods=["GET"]),
    ]
