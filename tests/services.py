"""Stand-ins of the two services of yProv: HTTP on 127.0.0.1 that keeps strictly to what the services document.

    with StoreServer() as server:
        server.faults.append(Fault("POST", "/documents", status=500))     # the next such request, once
        ... server.address, server.seen, server.documents

A request that breaks the contract is refused as the service would, and `server.broken` says why.
"""

from __future__ import annotations

import contextlib
import email.message
import email.parser
import email.policy
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.yprov_rules import CannotAnswer, Graph

TOKEN = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0LXRva2Vu.b2Ytb3Vycw"
USER, PASSWORD = "ada@example.org", "correct horse/battery&staple"


@dataclass
class Fault:
    """What becomes of the next request with this method and this part of a path. `then`: first do what was asked.
    `reset`: the connection is lost instead of an answer; `torn`: in the middle of one; `silent`: none comes. `early`:
    the answer comes, and the end, before the request is read. `drip`: an answer whose head comes byte by byte."""

    method: str
    path: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"detail": "a fault"}'
    reset: bool = False
    torn: bool = False
    silent: bool = False
    early: bool = False
    drip: bool = False
    then: bool = False


@dataclass
class Seen:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: email.message.Message
    body: bytes


class Said(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, value: Any) -> None:
        super().__init__(status)
        self.status, self.value = status, value


class Server:
    """What both have in common. `tokens`: those that are good. `log`: as an access log. `now`: its clock."""

    def __init__(self, prefix: str = "", *, now: Callable[[], float] = time.time) -> None:
        self.prefix, self.now = prefix, now
        self.tokens = {TOKEN}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.log: list[str] = []
        self.broken: list[str] = []
        self._silence = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, form: str, *args: Any) -> None:
                server.log.append(form % args)

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(server.now() if timestamp is None else timestamp)

            def answer(self) -> None:
                server.handle(self)
                self.close_connection = True

            do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a connection that a test resets

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}{prefix}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._silence.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def count(self, method: str, path: str = "") -> int:
        return sum(r.method == method and path in r.path for r in self.seen)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        path = unquote(parts.path).removeprefix(self.prefix)
        fault = next((f for f in self.faults if f.method == handler.command and f.path in path), None)
        early = fault is not None and fault.early
        body = b"" if early else handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        request = Seen(handler.command, path, query, handler.headers, body)
        self.seen.append(request)
        if fault is not None:
            self.faults.remove(fault)
        status, headers, value = 0, {}, b""
        if fault is None or fault.then:
            status, value = self._answered(request)
            headers = {"Content-Type": "application/json"}
        if fault is not None:
            if fault.silent:
                self._silence.wait(20)
                return
            if fault.drip:
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
                for _ in range(1000):
                    if self._silence.wait(0.005):
                        return
                    handler.wfile.write(b"a")
                return
            if fault.reset:
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                handler.connection.close()
                return
            if fault.status:
                status, value, headers = fault.status, fault.body, {"Content-Type": "application/json"} | fault.headers
        handler.send_response(status)
        for name, text in headers.items():
            handler.send_header(name, text)
        handler.send_header("Content-Length", str(len(value) + (1000 if fault is not None and fault.torn else 0)))
        handler.end_headers()
        with contextlib.suppress(OSError):
            handler.wfile.write(value)

    def _answered(self, request: Seen) -> tuple[int, bytes]:
        try:
            value = self.answer(request)
            return (value[0], _bytes(value[1])) if isinstance(value, tuple) else (200, _bytes(value))
        except Said as e:
            return e.status, _bytes(e.value)
        except Exception as e:  # noqa: BLE001  so does a service
            self.broken.append(f"{type(e).__name__}: {e}")
            return 500, b'{"description": "Internal server error."}'

    def answer(self, request: Seen) -> Any:
        raise NotImplementedError

    def refuse(self, status: int, why: str) -> Said:
        self.broken.append(why)
        return Said(status, {self.error: why})

    error = "error"

    def signed(self, request: Seen) -> None:
        said = request.headers.get("Authorization", "")
        if not re.fullmatch(r"Bearer \S+", said):
            raise self.refuse(401, "Token is missing!")
        if said.removeprefix("Bearer ") not in self.tokens:
            raise Said(401, {self.error: "Signature expired. Please log in again!"})


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class V0Server(Server):
    """yProv's service v0 on a graph database. `private`: reading needs a token as well, as in some of its versions."""

    def __init__(self, prefix: str = "", *, private: bool = False) -> None:
        super().__init__(prefix)
        self.private = private
        self.graphs: dict[str, Graph] = {}
        self.forbidden: set[str] = set()

    def answer(self, request: Seen) -> Any:
        if request.path in ("", "/"):
            return b"I'm active"
        if (request.method, request.path) == ("POST", "/api/v0/auth/login"):
            self._json(request)
            who = json.loads(request.body)
            if set(who) != {"user", "password"} or (who["user"], who["password"]) != (USER, PASSWORD):
                raise Said(401, {"error": "Please register!"})
            self.tokens.add(TOKEN)
            return {"result": TOKEN}
        if request.method != "GET" or self.private:
            self.signed(request)
        if (request.method, request.path) == ("GET", "/api/v0/documents"):
            return {"result": sorted(self.graphs)}
        found = re.fullmatch(r"/api/v0/documents/([^/]+)", request.path)
        if not found or request.query:
            raise self.refuse(404, f"no such address: {request.path}")
        name = found[1]
        if request.method == "GET":
            if name not in self.graphs:
                raise Said(404, {"error": "Document not found"})
            try:
                return {"result": json.dumps(self.graphs[name].document())}
            except CannotAnswer as e:
                raise self.refuse(500, f"cannot be read back: {e}") from None
        if request.method != "PUT":
            raise self.refuse(405, request.method)
        self._json(request)
        if name in self.forbidden:
            raise Said(403, {"error": "User does not have permission to execute this operation on this document!"})
        if not re.fullmatch(r"[a-z][a-z0-9.-]{2,62}", name) or name.startswith("system"):
            raise self.refuse(500, f"no name of a database: {name}")
        try:
            document = json.loads(request.body)
        except ValueError:
            raise self.refuse(400, "Document not valid") from None
        self.graphs.setdefault(name, Graph()).add(document)
        return 201, {"message": "Document uploaded"}

    def _json(self, request: Seen) -> None:
        if request.headers.get("Content-Type") != "application/json":
            raise self.refuse(400, "Content-Type not supported!")


@dataclass
class Stored:
    pid: str
    data: bytes
    version: int
    parent: str | None
    metadata: dict[str, Any]
    created: float

    def record(self) -> dict[str, Any]:
        return {"pid": self.pid, "version": self.version, "storage_url": f"http://storage/{self.pid}",
                "owner_email": USER, "parent_document_pid": self.parent}


class StoreServer(Server):
    """yProvStore. `older`: a document's address gives its record, and `/download` the file."""

    error = "description"

    def __init__(self, prefix: str = "", *, older: bool = False, now: Callable[[], float] = time.time) -> None:
        super().__init__(prefix, now=now)
        self.older = older
        self.documents: dict[str, Stored] = {}
        self.artifacts: dict[str, tuple[str, bytes]] = {}
        self.related: dict[str, list[str]] = {}
        self.upload_address = self.address
        self._waiting: dict[str, tuple[str, str]] = {}

    def answer(self, request: Seen) -> Any:
        method, path = request.method, request.path
        if (method, path) == ("POST", "/auth/login"):
            return self._login(request)
        if (method, path) == ("GET", "/documents"):
            return self._list(request)
        if (method, path) == ("POST", "/documents"):
            return self._create(request)
        if (method, path) == ("POST", "/artifacts/upload/url"):
            return self._upload_url(request)
        if found := re.fullmatch(r"/artifacts/proxy/upload/(\w+)", path):
            return self._upload(request, found[1])
        if found := re.fullmatch(r"/documents/([^/]+/[^/]+)(/download|/related)?", path):
            return self._one(request, found[1], found[2] or "")
        raise Said(404, {"detail": "Not Found"})

    def _login(self, request: Seen) -> Any:
        if request.headers.get("Content-Type") != "application/json":
            raise self.refuse(422, "no JSON")
        who = json.loads(request.body)
        if set(who) != {"email", "password"} or (who["email"], who["password"]) != (USER, PASSWORD):
            raise Said(401, {"description": "Invalid credentials provided."})
        self.tokens.add(TOKEN)
        return {"access_token": TOKEN, "token_type": "bearer"}

    def _list(self, request: Seen) -> Any:
        if unknown := set(request.query) - {"page", "page_size", "updated_after", "created_after"}:
            raise self.refuse(422, f"unknown {unknown}")
        found = list(self.documents.values())
        if after := request.query.get("created_after"):
            moment = datetime.fromisoformat(after)
            assert moment.tzinfo is not None
            found = [d for d in found if d.created >= moment.timestamp()]
        size = int(request.query.get("page_size", 10))
        begin = int(request.query.get("page", 0)) * size
        return [d.record() for d in found][begin:begin + size]

    def _create(self, request: Seen) -> Any:
        self.signed(request)
        if unknown := set(request.query) - {"parent_document_pid", "document_metadata"}:
            raise self.refuse(422, f"unknown {unknown}")
        kind, _name, data = self._file(request)
        if kind not in ("application/json", "text/plain"):
            raise self.refuse(400, f"Unsupported file type: {kind}. Only JSON or plain text files are allowed.")
        metadata = json.loads(request.query.get("document_metadata", "{}"))
        if not set(metadata) <= {"title", "description", "keywords", "author"} or not all(
                isinstance(v, list if k == "keywords" else str) for k, v in metadata.items()):
            raise self.refuse(422, f"metadata: {metadata}")
        parent = request.query.get("parent_document_pid")
        if parent is not None and parent not in self.documents:
            raise Said(404, {"description": f"Document with PID '{parent}' not found."})
        pid = f"21.T11961/doc-{len(self.documents) + 1}"
        version = self.documents[parent].version + 1 if parent else 1
        self.documents[pid] = Stored(pid, data, version, parent, metadata, self.now())
        return self.documents[pid].record()

    def _one(self, request: Seen, pid: str, what: str) -> Any:
        if pid not in self.documents:
            raise Said(404, {"description": f"Document with PID '{pid}' not found."})
        stored = self.documents[pid]
        if what == "/related":
            self.signed(request)
            if request.method != "PATCH":
                raise self.refuse(405, request.method)
            others = json.loads(request.body)["related_pids"]
            if unknown := set(others) - set(self.artifacts):
                raise self.refuse(404, f"unknown {unknown}")
            self.related[pid] = others
            return {"related_pids": others}
        if request.method != "GET" or (what and not self.older):
            raise self.refuse(404, f"{request.method} {request.path}")
        return stored.record() if self.older and not what else stored.data

    def _upload_url(self, request: Seen) -> Any:
        self.signed(request)
        pid, key = f"21.T11961/art-{len(self._waiting) + 1}", f"presigned{len(self._waiting) + 1}"
        self._waiting[key] = (pid, request.query["filename"])
        return {"pid": pid, "upload_url": f"{self.upload_address}/artifacts/proxy/upload/{key}?signature=hush-{key}",
                "url_expires_at": "2099-01-01T00:00:00Z"}

    def _upload(self, request: Seen, key: str) -> Any:
        if request.method != "PUT" or request.query != {"signature": f"hush-{key}"} or key not in self._waiting:
            raise self.refuse(401, "The token is invalid or has expired.")
        _kind, _name, data = self._file(request)
        pid, name = self._waiting[key]
        self.artifacts[pid] = (name, data)
        return {"pid": pid, "hash": hashlib.sha256(data).hexdigest()}

    def _file(self, request: Seen) -> tuple[str, str, bytes]:
        """(type, name, content) of the one field of the form."""
        head = f"Content-Type: {request.headers.get('Content-Type')}\r\n\r\n".encode()
        form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + request.body)
        if form.get_content_type() != "multipart/form-data":
            raise self.refuse(400, "At least one of 'document_data' or 'document_file' must be provided.")
        fields = list(form.iter_parts())
        names = [f.get_param("name", header="content-disposition") for f in fields]
        if names != ["document_file"]:
            raise self.refuse(422, f"fields {names}")
        return fields[0].get_content_type(), fields[0].get_filename() or "", fields[0].get_payload(decode=True) or b""
