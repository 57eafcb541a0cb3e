"""A small Hugging Face Hub on this machine: the few endpoints that a push calls; it keeps what was committed."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

ROLE = {"name": "me", "auth": {"accessToken": {"role": "write"}}}


class Hub(ThreadingHTTPServer):
    """repos: "models/me/x" -> {"private", "files"}; seen: (method, path, headers, body) of every request.

    fails: (start of a path, status, text) of what is answered with an error. role: what `whoami` answers.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.objects, self.seen, self.commits = {}, {}, [], []
        self.fails, self.role = None, ROLE
        self.address = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def add(self, name, *, private, files):
        self.repos[name] = {"private": private, "files": dict(files)}

    def commit(self, repo, lines):
        header, *changes = (json.loads(line) for line in lines.splitlines())
        self.commits.append((repo, header["value"]))
        files = self.repos[repo]["files"]
        for change in changes:
            kind, value = change["key"], change["value"]
            if kind == "deletedFile":
                del files[value["path"]]
            else:
                lfs = kind == "lfsFile"
                files[value["path"]] = self.objects[value["oid"]] if lfs else base64.b64decode(value["content"])


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _any(self):
        hub = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        hub.seen.append((self.command, self.path, dict(self.headers), body))
        if hub.fails and path.startswith(hub.fails[0]):
            self._answer(hub.fails[1], {"error": hub.fails[2].replace("{sent}", str(self.headers["Authorization"]))})
        elif self.command == "PUT":
            hub.objects[path.removeprefix("/lfs/")] = body
            self._answer(200, {})
        elif path == "/api/whoami-v2":
            self._answer(200, hub.role)
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            metadata = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            good = isinstance(metadata, dict)
            self._answer(200 if good else 400, {"errors": [] if good else [{"message": "no metadata"}], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{hub.address}/lfs/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            self._answer(200, {"objects": objects, "transfer": "basic"})
        else:
            self._repository(path.removeprefix("/api/"), body)

    do_GET = do_POST = do_PUT = _any

    def _create(self, asked):
        kind = "datasets" if asked.get("type") == "dataset" else "models"
        name = f"{kind}/{asked['organization']}/{asked['name']}"
        url = f"{self.server.address}/{name.removeprefix('models/')}"
        known = name in self.server.repos
        if not known:
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.server.add(name, private=private, files={".gitattributes": b""})
        self._answer(409 if known else 200, {"url": url})

    def _repository(self, path, body):
        repo, _, action = path, "", ""
        for known in ("/preupload/", "/commit/"):
            if known in path:
                repo, _, action = path.partition(known)[0], "", known.strip("/")
        if repo not in self.server.repos:
            self._answer(404, {"error": "Repository not found"})
        elif action == "preupload":
            names = [item["path"] for item in json.loads(body)["files"]]
            large = (".safetensors", ".png")
            modes = {name: "lfs" if name.endswith(large) else "regular" for name in names}
            files = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            self._answer(200, {"files": files})
        elif action == "commit":
            self.server.commit(repo, body.decode())
            self._answer(200, {"commitUrl": f"{self.server.address}/{repo}/commit/1", "commitOid": "1" * 40})
        else:
            state = self.server.repos[repo]
            siblings = [{"rfilename": name} for name in state["files"]]
            content = {"id": repo.partition("/")[2], "sha": "0" * 40, "private": state["private"], "siblings": siblings}
            self._answer(200, {**content, "tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False})
