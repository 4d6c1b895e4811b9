"""Dictionaries by name and from the hub: a local server that speaks the hub's protocol, the cache, and offline."""

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import pytest
import torch
from publishers import CASES, D, N

from clipattr import list_saes, load_sae
from clipattr.dictionaries import hub, registry
from clipattr.dictionaries.registry import Entry, find_entry, read_registry
from clipattr.errors import DictionaryError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Repositories in memory: {repository: {path: bytes}}; `asked` lists (method, path), `cut` breaks off downloads."""

    daemon_threads = True

    def __init__(self, repositories):
        self.repositories, self.asked, self.cut = repositories, [], {}
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = unquote(urlparse(self.path).path)
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        for name, files in self.server.repositories.items():
            if path.startswith(f"/api/models/{name}"):
                rest = path.removeprefix(f"/api/models/{name}").strip("/").split("/")
                if len(rest) > 1 and rest[1] not in ("main", COMMIT, "v1"):
                    return self.fail(404, "RevisionNotFound")
                if rest[0] == "tree":
                    listed = [
                        {"type": "file", "path": p, "size": len(d), "oid": self.oid(d)}
                        for p, d in files.items()
                    ]
                    return self.send(json.dumps(listed).encode(), "application/json")
                about = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0,
                         "siblings": [{"rfilename": p} for p in files]}  # fmt: skip
                return self.send(json.dumps(about).encode(), "application/json")
            if path.startswith(f"/{name}/resolve/"):
                revision, _, file = path.removeprefix(f"/{name}/resolve/").partition("/")
                if revision not in ("main", COMMIT, "v1"):
                    return self.fail(404, "RevisionNotFound")
                if file not in files:
                    return self.fail(404, "EntryNotFound")
                return self.file(file, files[file], body)
        self.fail(404, "RepoNotFound")

    @staticmethod
    def oid(data):
        return hashlib.sha1(data).hexdigest()

    def file(self, name, data, body):
        start = (
            int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            if self.headers.get("Range")
            else 0
        )
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{self.oid(data)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if body:
            stop = self.server.cut.pop(name, None)
            self.wfile.write(data[start : len(data) if stop is None else stop])
            if stop is not None:
                self.wfile.flush()
                self.connection.close()

    def send(self, data, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def fail(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


def packed(tensors):
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


CASE = CASES["prisma, topk, layer norm"]
PRISMA = {
    "weights.pt": packed(CASE.tensors),
    "config.json": json.dumps(CASE.config).encode(),
    "README.md": b"# card",
}


@pytest.fixture
def server(tmp_path, monkeypatch):
    made = Hub(
        {"org/prisma": PRISMA, "org/steps": {"a/1.pt": PRISMA["weights.pt"], "b/2.pt": PRISMA["weights.pt"]}}
    )
    threading.Thread(target=made.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", made.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.DEFAULT_ETAG_TIMEOUT", 2)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield made
    made.shutdown()
    made.server_close()


def test_a_hub_id_is_fetched_with_its_config_once_and_then_from_the_cache(server):
    made = load_sae("hf-hub:org/prisma")
    assert (made.kind, made.n_latents, made.site) == ("topk", N, "image.3.cls")
    fetched = {
        path.rpartition("/")[2] for method, path, _ in server.asked if method == "GET" and "/resolve/" in path
    }
    assert fetched == {"weights.pt", "config.json"}  # and not the card
    server.asked.clear()
    assert load_sae("hf-hub:org/prisma@main/weights.pt").hash == made.hash
    assert not [path for method, path, _ in server.asked if method == "GET" and "/resolve/" in path]


def test_offline_the_cache_alone_is_used(server, monkeypatch):
    with pytest.raises(DictionaryError, match="not in the cache and the hub cannot be reached: connect once"):
        load_sae("hf-hub:org/prisma", offline=True)
    first = load_sae("hf-hub:org/prisma")
    server.asked.clear()
    assert load_sae("hf-hub:org/prisma", offline=True).hash == first.hash
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_sae("hf-hub:org/prisma").hash == first.hash
    assert server.asked == []


def test_an_interrupted_download_is_resumed(server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(
        "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100
    )  # what was received in full is kept
    server.cut["weights.pt"] = 1000
    made = load_sae("hf-hub:org/prisma")
    assert made.n_latents == N
    ranges = [
        found for method, path, found in server.asked if method == "GET" and path.endswith("weights.pt")
    ]
    assert ranges[-1] == "bytes=1000-" and len(ranges) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf-hub:org/nothing", "there is no such repository"),
        ("hf-hub:org/prisma@gone", "there is no revision 'gone'"),
        ("hf-hub:org/prisma/other.pt", r"has no file 'other.pt'; it has README.md, config.json, weights.pt"),
        (
            "hf-hub:org/steps",
            r"2 files that may be weights \(a/1.pt, b/2.pt\); name one: hf-hub:org/steps/PATH",
        ),
        ("hf-hub:prisma", "is not a hub id; write hf-hub:OWNER/NAME"),
        ("hf-hub:org/prisma/../../etc", "is not a hub id"),
    ],
)
def test_what_the_hub_does_not_have_is_said(server, source, message):
    with pytest.raises(DictionaryError, match=message):
        load_sae(source)


def test_no_connection_is_said_and_does_not_crash(server, monkeypatch):
    server.shutdown()
    server.server_close()
    with pytest.raises(DictionaryError, match="could not be fetched: .*(cannot be reached)"):
        load_sae("hf-hub:org/prisma")


@pytest.fixture
def registered(server, monkeypatch):
    def put(**changed):
        fields = {
            "name": "here:tiny/cls-3",
            "repository": "org/prisma",
            "format": "prisma",
            "model": "tiny",
            "source": "a page",
            "site": "image.3.cls",
            "promise": {"explained_variance": 0.8, "l0": 4.0},
        }
        entry = Entry(**{**fields, **changed})
        monkeypatch.setattr(registry, "_bundled", lambda: {entry.name: entry})
        return entry

    return put


def test_a_registered_name_loads_with_its_promise(registered):
    registered()
    made = load_sae("here:tiny/cls-3")
    assert made.site == "image.3.cls" and made.info["promise"] == {"explained_variance": 0.8, "l0": 4.0}
    assert (made.info["model"], made.info["repository"]) == ("tiny", "org/prisma")
    with pytest.raises(
        DictionaryError, match=r"no dictionary named 'here:tiny/cls-33'. Nearest: here:tiny/cls-3\."
    ):
        load_sae("here:tiny/cls-33")


def test_a_file_that_contradicts_the_registry_is_refused(registered):
    registered(site="image.5.cls")
    with pytest.raises(
        DictionaryError, match=r"says that its site is image\.3\.cls, the registry says image\.5\.cls"
    ):
        load_sae("here:tiny/cls-3")
    assert load_sae("here:tiny/cls-3", site="image.3.cls").site == "image.3.cls"
    registered(sha256="0" * 64)
    with pytest.raises(DictionaryError, match="has sha256 .*, the registry says 0000"):
        load_sae("here:tiny/cls-3")
    registered(sha256=hashlib.sha256(PRISMA["weights.pt"]).hexdigest())
    assert load_sae("here:tiny/cls-3").width == D


def test_the_bundled_registry_is_whole():
    entries = read_registry()
    from clipattr import Site
    from clipattr.dictionaries import FORMATS

    assert len(entries) == 60 and len({(e.repository, e.file) for e in entries.values()}) == 60
    for entry in entries.values():
        assert entry.format in FORMATS and entry.source.startswith("https://")
        assert entry.site is None or (Site(entry.site) and entry.site.startswith("image."))
        assert 0 < entry.promise["explained_variance"] <= 1 and entry.promise["l0"] > 1
        layer = entry.name.rpartition("-")[2].rpartition("/")[2]
        assert entry.site is None or entry.site.split(".")[1] == layer
        assert (
            ("mlp_out" in entry.name) == ("mlp_out" in (entry.site or "")) == ("mlp_out" in entry.repository)
        )
    table = list_saes()
    assert list(table["name"]) == list(entries) and len(list_saes("cls-11")) == 1
    assert len(list_saes("MLP_out")) == 12


def test_a_registry_with_strange_entries_is_refused(tmp_path):
    file = tmp_path / "registry.toml"
    good = 'repository = "a/b"\nformat = "prisma"\nmodel = "m"\nsource = "s"\n'
    for text, message in {
        "[[": "cannot be read",
        f'["a:b"]\n{good}colour = "red"': "unknown fields colour",
        f'["a:b"]\n{good}promise = {{ fvu = 1.0 }}': "unknown fields fvu",
        '["a:b"]\nrepository = "a/b"': "missing 3 required",
    }.items():
        file.write_text(text)
        with pytest.raises(DictionaryError, match=message):
            read_registry(file)


def test_paths_are_never_taken_for_names(tmp_path, monkeypatch):
    assert find_entry(tmp_path) is None and find_entry("C:/sae.pt") is None and find_entry("sae.pt") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prisma:mine").mkdir()
    assert find_entry("prisma:mine") is None
    assert hub.HUB == "hf-hub:"
