"""A server that speaks as much of the Hugging Face hub's protocol as sharing needs, with its repositories in memory."""

import base64
import hashlib
import json
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.serving import served

COMMIT = "c" * 40


class Hub:
    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}

    async def create(self, request):
        asked = await request.json()
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        self.repositories.setdefault(name, {})
        return JSONResponse({"url": str(request.url_for("create")).replace("/api/repos/create", f"/{name}")})

    async def preupload(self, request):
        files = (await request.json())["files"]
        return JSONResponse(
            {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
        )

    async def commit(self, request):
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        for one in (line["value"] for line in lines if line["key"] == "file"):
            self.repositories[self._name(request)][one["path"]] = base64.b64decode(one["content"])
        place = str(request.base_url) + self._name(request)
        return JSONResponse(
            {"commitUrl": f"{place}/commit/{COMMIT}", "commitOid": COMMIT, "success": True, "hookOutput": ""}
        )

    async def read_card(self, request):
        assert (await request.json())["repoType"] == "model"
        return JSONResponse({"errors": [], "warnings": []})

    async def info(self, request):
        name = self._name(request)
        if name not in self.repositories:
            return JSONResponse({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        files = [{"rfilename": path} for path in self.repositories[name]]
        return JSONResponse({"id": name, "sha": COMMIT, "siblings": files, "private": False, "tags": []})

    async def tree(self, request):
        files = self.repositories.get(self._name(request), {})
        return JSONResponse(
            [{"type": "file", "path": path, "size": len(data), "oid": _sha(data)} for path, data in files.items()]
        )

    async def models(self, request):
        assert request.query_params.getlist("filter") == ["engram-interp"]
        return JSONResponse([{"id": name, "modelId": name, "tags": [], "private": False} for name in self.repositories])

    async def resolve(self, request):
        data = self.repositories.get(self._name(request), {}).get(request.path_params["path"])
        if data is None:
            is_there = self._name(request) in self.repositories
            return Response(b"", 404, {"X-Error-Code": "EntryNotFound" if is_there else "RepoNotFound"})
        headers = {"ETag": f'"{_sha(data)}"', "X-Repo-Commit": COMMIT}
        return Response(data, 200, headers, media_type="application/octet-stream")

    def _name(self, request):
        return f"{request.path_params['owner']}/{request.path_params['name']}"

    def application(self):
        model = "/api/models/{owner}/{name}"
        return Starlette(routes=[
            Route("/api/repos/create", self.create, methods=["POST"], name="create"),
            Route("/api/models", self.models),
            Route("/api/validate-yaml", self.read_card, methods=["POST"]),
            Route(model + "/preupload/{revision}", self.preupload, methods=["POST"]),
            Route(model + "/commit/{revision}", self.commit, methods=["POST"]),
            Route(model + "/tree/{revision}", self.tree),
            Route(model + "/revision/{revision}", self.info),
            Route(model, self.info),
            Route("/{owner}/{name}/resolve/{revision}/{path:path}", self.resolve, methods=["GET", "HEAD"]),
        ])  # fmt: skip


def _sha(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def running():
    """A hub, and where it is."""
    hub = Hub()
    with served(hub.application()) as address:
        yield hub, address
