"""Weights files from the package, the cache folder and an HTTP server on this machine."""

from concurrent.futures import ThreadPoolExecutor
import contextlib
import hashlib
import http.server
import threading

import numpy as np
import pytest
from zoo import download

NAME = "network.safetensors"
CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def fetch():
    return download.fetch(NAME, SHA256, len(CONTENT))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PACKAGE_FOLDER", tmp_path / "package")
    monkeypatch.setenv("IRNET_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IRNET_TF_WEIGHTS_URL", raising=False)
    return tmp_path / "cache"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Authorization")))
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            return self.end_headers()
        if self.path != f"/weights/{NAME}":
            return self.send_error(404)
        self.send_response(200)
        if server.announced:
            self.send_header("Content-Length", str(server.announced))
        self.end_headers()
        with contextlib.suppress(OSError):
            for piece in server.pieces:
                self.wfile.write(piece)
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.pieces, server.announced = [CONTENT], len(CONTENT)
    server.requests, server.redirect = [], None
    server.address = f"127.0.0.1:{server.server_address[1]}/weights"
    monkeypatch.setenv("IRNET_TF_WEIGHTS_URL", f"http://{server.address}/")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def put(folder, content):
    folder.mkdir()
    (folder / NAME).write_bytes(content)
    return folder / NAME


def test_package_then_cache_then_download(cache, server):
    with ThreadPoolExecutor(4) as pool:
        [path] = set(pool.map(lambda _: fetch(), range(4)))
    assert path.read_bytes() == CONTENT and path.parent == cache
    assert fetch() == path and server.requests == [(f"/weights/{NAME}", None)]
    path.write_bytes(b"damaged")
    assert fetch().read_bytes() == CONTENT and len(server.requests) == 2
    packaged = put(download.PACKAGE_FOLDER, CONTENT)
    assert fetch() == packaged and len(server.requests) == 2


def test_a_password_is_sent_but_never_printed(server, cache, monkeypatch, capfd, caplog):
    monkeypatch.setenv("IRNET_TF_WEIGHTS_URL", f"http://me:se%40cret@{server.address}")
    fetch()
    assert server.requests[-1][1] == "Basic bWU6c2VAY3JldA=="  # me:se@cret
    monkeypatch.setenv("IRNET_TF_WEIGHTS_URL", f"http://me:se%40cret@{server.address}/none")
    (cache / NAME).unlink()
    with pytest.raises(OSError, match="404") as error:
        fetch()
    printed = str(error.value) + caplog.text + "".join(capfd.readouterr())
    assert "cret" not in printed and "none" in printed


@pytest.mark.parametrize(
    ("content", "announced", "error", "message"),
    [
        ([CONTENT[:-1] + b"x"], len(CONTENT), ValueError, "hash"),
        ([CONTENT[:1000]], len(CONTENT), OSError, "failed"),
        ([bytes(1 << 20)] * 50, None, ValueError, "more than the expected 300000 bytes"),
    ],
    ids=["damaged", "cut", "endless"],
)
def test_bad_downloads_leave_no_file(cache, server, content, announced, error, message):
    server.pieces, server.announced = content, announced
    with pytest.raises(error, match=message):
        fetch()
    assert not [path for path in cache.iterdir() if not path.name.startswith(".")]


def test_only_http(server, monkeypatch):
    server.redirect = "file:///etc/passwd"
    with pytest.raises(OSError, match="failed"):
        fetch()
    monkeypatch.setenv("IRNET_TF_WEIGHTS_URL", "file:///x")
    with pytest.raises(ValueError, match="must start with http"):
        fetch()


def test_missing_and_damaged_files_without_an_address(cache):
    with pytest.raises(FileNotFoundError, match="IRNET_TF_WEIGHTS_URL"):
        fetch()
    put(cache, b"x")
    with pytest.raises(ValueError, match=f"has SHA-256 .* expected {SHA256}"):
        fetch()
