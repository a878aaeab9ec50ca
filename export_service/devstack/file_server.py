"""The demo's file server: `python -m export_service.devstack.file_server ROOT PORT`. GET and HEAD of files below ROOT, on loopback."""

import sys
from pathlib import Path

from aiohttp import web


def make_app(root: Path) -> web.Application:
    """Files are read whole: the demo's are small, and a thread hop per file would cost more."""

    async def serve(request: web.Request) -> web.Response:
        path = (root / request.match_info["name"]).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise web.HTTPNotFound
        return web.Response(body=path.read_bytes(), content_type="application/octet-stream")

    app = web.Application()
    app.router.add_get("/{name:.+}", serve)
    return app


def main(root: str, port: str) -> None:
    web.run_app(make_app(Path(root).resolve()), host="127.0.0.1", port=int(port), print=None, access_log=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
