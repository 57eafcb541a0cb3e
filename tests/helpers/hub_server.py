"""A small Hugging Face Hub on this machine: the endpoints that a push calls, and those that reading a model or a data
set calls. It keeps what was committed, and serves what `add` gave it to `AutoConfig`, `load_dataset` and the like.

A library reads the address of its Hub when it is imported: start a child process with `environment`, or redirect the
libraries of this process with `redirect`.
"""

import base64
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

import yaml

ROLE = {"name": "me", "auth": {"accessToken": {"role": "write"}}}
NO_COMMIT = "0" * 40
# What a child process must not inherit from this one.
OF_THIS_MACHINE = (
    "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_DATASETS_CACHE", "HF_HUB_CACHE",
)  # fmt: skip


class Hub(ThreadingHTTPServer):
    """repos: "models/me/x" -> {"private", "files", ...}; seen: (method, path, headers, body) of every request.

    fails: (start of a path, status, text) of what is answered with an error. role: what `whoami` answers.
    members: tokens that may read gated repositories.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.objects, self.seen, self.commits = {}, {}, [], []
        self.fails, self.role, self.members = None, ROLE, set()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def add(self, name, *, files, private=False, gated=False, sha=NO_COMMIT, older=None):
        """Add a repository, "models/owner/name" or "datasets/owner/name".

        files: path -> bytes or str. gated: False, "auto" or "manual". older: commit, branch or tag -> its files.
        """
        self.repos[name] = {
            "private": private,
            "files": _as_bytes(files),
            "gated": gated,
            "sha": sha,
            "older": {revision: _as_bytes(kept) for revision, kept in (older or {}).items()},
        }

    def add_folder(self, name, folder, **about):
        """Add a repository with the files of a folder."""
        paths = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
        self.add(name, files={path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}, **about)

    def environment(self, home, **variables):
        """Return the variables of a child process that knows only this Hub; home: its cache and logins."""
        kept = {key: value for key, value in os.environ.items() if key not in OF_THIS_MACHINE}
        own = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        return {key: value for key, value in {**kept, **own, **variables}.items() if value is not None}

    def redirect(self, monkeypatch, home):
        """Make the libraries of this process read from this Hub, with a cache in `home`."""
        import datasets.config
        import huggingface_hub.constants
        import transformers.utils.hub
        from huggingface_hub.utils import close_session

        for name in (*OF_THIS_MACHINE, "HF_ENDPOINT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "*")
        close_session()
        hub, own = huggingface_hub.constants, datasets.config
        monkeypatch.setattr(hub, "ENDPOINT", self.address)
        template = self.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub, "HF_URL_HOSTS", hub.HF_URL_HOSTS | {"127.0.0.1"})
        monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hub, "HF_HUB_CACHE", str(Path(home) / "hub"))
        monkeypatch.setattr(hub, "HF_TOKEN_PATH", str(Path(home) / "token"))
        monkeypatch.setattr(own, "HF_ENDPOINT", self.address)
        monkeypatch.setattr(own, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(own, "HF_DATASETS_OFFLINE", False)
        monkeypatch.setattr(own, "HF_DATASETS_CACHE", Path(home) / "datasets")
        monkeypatch.setattr(own, "DOWNLOADED_DATASETS_PATH", str(Path(home) / "datasets" / "downloads"))
        # The viewer's address would be datasets-server.127.0.0.1, which no machine has.
        monkeypatch.setattr(own, "USE_PARQUET_EXPORT", False)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)

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


def _as_bytes(files):
    return {path: content.encode() if isinstance(content, str) else content for path, content in files.items()}


def _blob_id(content):
    """Return what Git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _card_data(files):
    """Return the metadata at the head of README.md, or None."""
    text = files.get("README.md", b"").decode()
    return yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else None


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def _answer(self, status, content, headers=()):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status, code, message, **headers):
        self._answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message, **headers})

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
        elif "/resolve/" in path:
            self._resolve(unquote(path).lstrip("/"))
        else:
            self._repository(path.removeprefix("/api/"), body)

    do_GET = do_HEAD = do_POST = do_PUT = _any

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
        repo, action, rest = path, "", ""
        for known in ("/preupload/", "/commit/", "/revision/", "/tree/", "/paths-info/"):
            if known in path:
                repo, _, rest = path.partition(known)
                action = known.strip("/")
        if action in ("revision", "tree", "paths-info"):
            self._read(repo, action, *map(unquote, f"{rest}/".split("/", 1)), body)
        elif repo not in self.server.repos:
            self._no_repository()
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
            self._answer(200, self._info(repo, self.server.repos[repo]["files"], self.server.repos[repo]["sha"]))

    # ---------------------------------------------------------------- reading

    def _no_repository(self):
        # To somebody without a login the Hub does not say whether there is a private one.
        if self.headers["Authorization"]:
            self._refuse(404, "RepoNotFound", "Repository not found")
        else:
            self._refuse(401, "RepoNotFound", "Invalid username or password.")

    def _revision(self, repo, revision):
        """Return (files, commit) of a revision; None, and an answer that says so, without one."""
        state = self.server.repos.get(repo)
        if state is None:
            return self._no_repository()
        if revision in ("main", state["sha"]):
            return state["files"], state["sha"]
        if revision in state["older"]:
            commit = revision if len(revision) == 40 else hashlib.sha1(revision.encode()).hexdigest()
            return state["older"][revision], commit
        for name, files in state["older"].items():
            if revision == hashlib.sha1(name.encode()).hexdigest():
                return files, revision
        return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def _may_read(self, repo):
        state, token = self.server.repos[repo], (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if not state["gated"] or token in self.server.members:
            return True
        name = repo.partition("/")[2]
        said = f"Access to {repo.partition('s/')[0]} {name} is restricted"
        if token:
            self._refuse(403, "GatedRepo", f"{said} and you are not in the authorized list.")
        else:
            self._refuse(401, "GatedRepo", f"{said}. You must have access to it and be authenticated to access it.")
        return False

    def _resolve(self, path):
        name, _, rest = path.partition("/resolve/")
        repo = name if name.startswith("datasets/") else f"models/{name}"
        revision, _, file = rest.partition("/")
        found = self._revision(repo, revision)
        if found is None or not self._may_read(repo):
            return
        files, commit = found
        if file not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
            return
        body, asked = files[file], self.headers["Range"]
        self.send_response(206 if asked else 200)
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(body)}")
            body = body[begin : end + 1]
        headers = {"ETag": f'"{_blob_id(files[file])}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        for name, value in {**headers, "Content-Type": "text/plain", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _read(self, repo, action, revision, inside, body):
        found = self._revision(repo, revision)
        if found is None:
            return
        files, commit = found
        if action == "revision":
            self._answer(200, self._info(repo, files, commit))
        elif self._may_read(repo):
            entries = {path: _entry(path, content) for path, content in files.items()}
            for path in files:
                for parent in list(Path(path).parents)[:-1]:
                    name = parent.as_posix()
                    identity = hashlib.sha1(name.encode()).hexdigest()
                    entries[name] = {"type": "directory", "path": name, "oid": identity, "size": 0}
            if action == "paths-info":
                asked = parse_qs(body.decode())["paths"]
                self._answer(200, [entries[path] for path in asked if path in entries])
                return
            inside = inside.strip("/")
            if inside and entries.get(inside, {}).get("type") != "directory":
                self._refuse(404, "EntryNotFound", f"{inside} does not exist on {revision!r}")
                return
            deep = parse_qs(self.path.partition("?")[2]).get("recursive", ["False"])[0].lower() in ("true", "1")
            below = [path for path in sorted(entries) if not inside or path.startswith(f"{inside}/")]
            here = inside.count("/") + bool(inside)
            self._answer(200, [entries[path] for path in below if deep or path.count("/") == here])

    def _info(self, repo, files, commit):
        state = self.server.repos[repo]
        content = {"id": repo.partition("/")[2], "sha": commit, "private": state["private"], "tags": []}
        content |= {"siblings": [{"rfilename": name} for name in files], "cardData": _card_data(files)}
        return {**content, "downloads": 0, "likes": 0, "gated": state["gated"], "disabled": False}


def _entry(path, content):
    return {"type": "file", "path": path, "oid": _blob_id(content), "size": len(content)}
