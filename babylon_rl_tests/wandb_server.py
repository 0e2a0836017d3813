"""W&B as its client sees it: a server on a socket that takes runs, metrics and artifacts, and remembers.

    with WandbServer() as server:
        ...                       # wandb.init(..., settings=wandb.Settings(base_url=server.base_url))
        server.history("run-id")  # the rows that arrived
        server.artifacts          # what was committed, with its files, aliases and metadata

Operations that it does not know are answered with nothing and listed in `unknown`.
"""

import base64
import gzip
import hashlib
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class StoredArtifact:
    """A version of an artifact as it arrived."""

    id: str
    name: str
    type: str
    run: str
    digest: str
    metadata: dict[str, Any]
    aliases: list[str]
    state: str = "PENDING"
    manifest: dict[str, Any] = field(default_factory=dict)


class WandbServer:
    """The service; a context manager.

    Attributes:
        runs: Configuration and other fields of each run, by id.
        refuse: Status that every request is answered with; None for good answers.
        used: Which run has read which artifact, by their ids.
        blobs: What was uploaded, by path.
    """

    def __init__(self, *, entity: str = "team", refuse: int | None = None) -> None:
        self.entity, self.refuse = entity, refuse
        self.runs: dict[str, dict[str, Any]] = {}
        self.artifacts: list[StoredArtifact] = []
        self.used: list[tuple[str, str]] = []
        self.unknown: list[str] = []
        self.requests: list[str] = []
        self.keys: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self._stream: dict[str, dict[str, list[str]]] = {}
        self._exits: dict[str, int] = {}
        self.lock = threading.RLock()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.service = self
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def history(self, run: str) -> list[dict[str, Any]]:
        """The rows of metrics that a run has sent, W&B's own keys left out."""
        lines = self._stream.get(run, {}).get("wandb-history.jsonl", [])
        rows = [json.loads(line) for line in lines]
        return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]

    def summary(self, run: str) -> dict[str, Any]:
        """The last summary that a run has sent."""
        lines = self._stream.get(run, {}).get("wandb-summary.json", ["{}"])
        return json.loads(lines[-1])

    def exit_code(self, run: str) -> int | None:
        """How the run ended; None while it has not."""
        return self._exits.get(run)

    def config(self, run: str) -> dict[str, Any]:
        """The run's configuration."""
        found = json.loads(self.runs[run].get("config") or "{}")
        return {key: value["value"] for key, value in found.items() if key != "_wandb"}

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of an answer."""
        handle = getattr(self, f"_{operation}", None)
        if handle is None:
            self.unknown.append(operation)
            return {}
        return handle(variables)

    def take_stream(self, run: str, body: dict[str, Any]) -> None:
        """Keep what a run streams: files by line, and its exit."""
        files = self._stream.setdefault(run, {})
        for name, chunk in (body.get("files") or {}).items():
            lines = files.setdefault(name, [])
            lines[chunk["offset"] :] = chunk["content"]
        if body.get("complete"):
            self._exits[run] = body.get("exitcode", 0)

    def _Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        names = {"edges": [{"node": {"id": "t", "name": self.entity}}]}
        return {
            "viewer": {
                "id": "v",
                "entity": self.entity,
                "username": self.entity,
                "flags": "{}",
                "teams": names,
            }
        }

    def _ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        known = self.runs.get(variables["name"])
        bucket = None
        if known is not None:
            lines = self._stream.get(variables["name"], {})
            history = lines.get("wandb-history.jsonl", [])
            bucket = {
                **self._bucket(known),
                "summaryMetrics": lines.get("wandb-summary.json", ["{}"])[-1],
                "historyLineCount": len(history),
                "eventsLineCount": 0,
                "logLineCount": 0,
                "historyTail": json.dumps(history[-1:]),
                "eventsTail": "[]",
                "tags": known.get("tags") or [],
                "wandbConfig": known.get("config"),
            }
        return {
            "model": {
                "id": "p",
                "name": variables["project"],
                "entity": {"id": "e", "name": self.entity},
                "bucket": bucket,
            }
        }

    def _UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, {"name": name, "project": variables.get("project")})
        run |= {key: value for key, value in variables.items() if value is not None}
        return {"upsertBucket": {"bucket": self._bucket(run), "inserted": inserted}}

    def _bucket(self, run: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "e", "name": run.get("entity") or self.entity}
        return {
            "id": f"id-{run['name']}",
            "name": run["name"],
            "displayName": run.get("displayName") or run["name"],
            "description": None,
            "config": run.get("config"),
            "sweepName": None,
            "historyLineCount": 0,
            "project": {"id": "p", "name": run.get("project") or "uncategorized", "entity": entity},
        }

    def _CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.base_url}/blobs/{variables['run']}/{name}"}
            for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": f"id-{variables['run']}", "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Which type an artifact of this name has, so that one name never gets two."""
        name = str(variables["name"]).partition(":")[0]
        known = [artifact.type for artifact in self.artifacts if artifact.name == name]
        return {"project": {"artifact": {"artifactType": {"name": known[0]}} if known else None}}

    def _CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables.get("input", variables)
        collections = given.get("artifactCollectionNames") or [given.get("artifactCollectionName")]
        known = [a for a in self.artifacts if a.digest == given["digest"] and a.name == collections[0]]
        if known:
            artifact = known[0]
        else:
            artifact = StoredArtifact(
                f"artifact-{len(self.artifacts)}",
                collections[0],
                given["artifactTypeName"],
                given.get("runName") or "",
                given["digest"],
                json.loads(given.get("metadata") or "{}"),
                [],
            )
            self.artifacts.append(artifact)
        for alias in given.get("aliases") or []:
            if alias["alias"] not in artifact.aliases:
                artifact.aliases.append(alias["alias"])
        same = [a for a in self.artifacts if a.name == artifact.name and a.state == "COMMITTED"]
        latest = {"id": same[-1].id, "versionIndex": len(same) - 1} if same else None
        sequence = {"id": f"sequence-{artifact.name}", "latestArtifact": latest}
        found = {"id": artifact.id, "state": artifact.state, "artifactSequence": sequence}
        return {"createArtifact": {"artifact": found}}

    def _CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        key = f"manifest/{variables['artifactID']}/{name}"
        made = {
            "id": f"manifest-{variables['artifactID']}",
            "file": {
                "id": key,
                "name": name,
                "displayName": name,
                "uploadUrl": f"{self.base_url}/blobs/{key}" if variables.get("includeUpload", True) else None,
                "uploadHeaders": [],
            },
        }
        return {"createArtifactManifest": {"artifactManifest": made}}

    def _UpdateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        answer = self._CreateArtifactManifest(
            {
                "artifactID": str(variables["artifactManifestID"]).removeprefix("manifest-"),
                "name": "wandb_manifest.json",
            }
        )
        return {"updateArtifactManifest": answer["createArtifactManifest"]}

    def _CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for spec in variables.get("input", variables)["artifactFiles"]:
            key = f"files/{spec['artifactID']}/{spec['name']}"
            node = {
                "id": key,
                "name": spec["name"],
                "displayName": spec["name"],
                "uploadUrl": f"{self.base_url}/blobs/{key}",
                "uploadHeaders": [],
                "storagePath": key,
                "uploadMultipartUrls": None,
                "artifact": {"id": spec["artifactID"]},
            }
            edges.append({"node": node})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        [artifact] = [a for a in self.artifacts if a.id == variables["artifactID"]]
        artifact.state = "COMMITTED"
        for path, content in self.blobs.items():
            if path.startswith(f"manifest/{artifact.id}/"):
                artifact.manifest = json.loads(content)
        return {"commitArtifact": {"artifact": {"id": artifact.id, "digest": artifact.digest}}}

    def _ArtifactByID(self, variables: dict[str, Any]) -> dict[str, Any]:
        [artifact] = [a for a in self.artifacts if a.id == variables["id"]]
        same = [a.id for a in self.artifacts if a.name == artifact.name]
        owner = self.runs.get(artifact.run) or next(iter(self.runs.values()))
        entity = {"name": owner.get("entity") or self.entity}
        project = {"id": "p", "internalId": "1", "name": owner["project"], "entity": entity}
        found = {
            "__typename": "Artifact",
            "id": artifact.id,
            "artifactSequence": {
                "__typename": "ArtifactSequence",
                "name": artifact.name,
                "project": project,
            },
            "versionIndex": same.index(artifact.id),
            "artifactType": {"name": artifact.type},
            "description": None,
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": artifact.state,
            "size": 0,
            "digest": artifact.digest,
            "commitHash": None,
            "fileCount": len(artifact.manifest.get("contents", {})),
            "createdAt": "2026-10-01T00:00:00Z",
            "updatedAt": None,
            "aliases": [],
        }
        return {"artifact": found}

    def _UseArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        given = variables["input"]
        self.used.append((given["runName"], given["artifactID"]))
        return {"useArtifact": {"artifact": {"id": given["artifactID"]}}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    service: WandbServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client's service ends its connections without a word; anything else is a defect of ours."""
        problem = sys.exc_info()[1]
        if not isinstance(problem, ConnectionError):
            self.service.unknown.append(f"{type(problem).__name__}: {problem}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server  # type: ignore[assignment]

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            content = b"".join(parts)
        else:
            content = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(content) if self.headers.get("content-encoding") == "gzip" else content

    def _handle(self) -> None:
        service, content = self.server.service, self._body()
        with service.lock:
            service.requests.append(f"{self.command} {self.path}")
            if basic := self.headers.get("authorization", "").removeprefix("Basic "):
                service.keys.add(base64.b64decode(basic).decode().partition(":")[2])
            status, answer = service.refuse or 200, {}
            if service.refuse is None:
                answer = self._answer(service, content)
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = _handle

    def _answer(self, service: WandbServer, content: bytes) -> dict[str, Any]:
        if self.path == "/graphql":
            asked = json.loads(content)
            named = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            return {"data": service.graphql(named[1] if named else "?", asked.get("variables") or {})}
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            service.take_stream(stream[1], json.loads(content))
            return {"exitcode": None, "limits": {}}
        if self.path.startswith("/blobs/"):
            service.blobs[self.path.removeprefix("/blobs/")] = content
            return {}
        if not self.path.startswith("/sdk/otel/"):  # the client's own telemetry
            service.unknown.append(f"{self.command} {self.path}")
        return {}


def md5(content: bytes) -> str:
    """A file's digest as W&B's manifests have it."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
