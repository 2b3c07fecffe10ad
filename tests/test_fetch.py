"""Finding and downloading weight files, against a real HTTP server on loopback."""

import contextlib
import hashlib
import http.server
import importlib.util
from pathlib import Path
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

SOURCE = Path(__file__).parents[1] / "zoo" / "fetch.py"
NAME = "folder/network.safetensors"
CONTENT = np.random.default_rng(0).bytes(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()

# Loaded by path, as in the processes of its own: without TensorFlow.
LOAD = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("fetch", {str(SOURCE)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""


class Server:
    """Serves `content` at any address below /weights; counts what it sends."""

    def __init__(self):
        self.content = CONTENT
        self.ranges = True
        self.cuts = []  # after how many bytes to cut the next connections
        self.status = None
        self.length = True
        self.requests = []  # (path, Range header)
        self.redirect = None
        self.reason = None
        self.endless = None  # (bytes at a time, seconds between)
        self.endless_headers = False
        self.sent = 0
        self.gate = threading.Event()
        self.gate.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/weights"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append((handler.path, asked))
        self.gate.wait(20)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        self.authorization = handler.headers.get("Authorization")
        if self.redirect:
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            return handler.end_headers()
        if self.status:
            return handler.send_error(self.status, self.reason)
        if self.endless:
            handler.send_response(200)
            if not self.endless_headers:
                handler.end_headers()
            with contextlib.suppress(OSError):
                handler.flush_headers()
                while self.endless:
                    handler.wfile.write(b"x" * self.endless[0])
                    self.sent += self.endless[0]
                    time.sleep(self.endless[1])
            return None
        if start >= len(self.content) and start:
            return handler.send_error(416)
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        if start:
            end = len(self.content)
            handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.cuts:
            body = body[: self.cuts.pop(0)]
        handler.wfile.write(body)
        self.sent += len(body)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IRNET_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IRNET_TF_WEIGHTS_URL", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def server(cache, monkeypatch):
    server = Server()
    monkeypatch.setenv("IRNET_TF_WEIGHTS_URL", server.url + "/")
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def fetch(cache, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("fetch_under_test", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PACKAGE_FOLDER", tmp_path / "package")
    return module.fetch


def put(folder, content):
    path = folder / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def visible(cache):
    return [p.name for p in cache.rglob("*") if p.is_file() and not p.name.startswith(".")]


def parts(cache):
    return list(cache.rglob("*.part"))


def test_the_package_comes_first(fetch, cache, tmp_path, server):
    put(cache, CONTENT)
    path = put(tmp_path / "package", CONTENT)
    assert fetch(NAME, SHA256) == path
    assert not server.requests


def test_then_the_cache(fetch, cache, server):
    path = put(cache, CONTENT)
    assert fetch(NAME, SHA256) == path
    assert not server.requests


def test_then_the_base_address_once(fetch, cache, server, capsys):
    path = fetch(NAME, SHA256)
    assert path == cache / NAME and path.read_bytes() == CONTENT
    assert server.requests == [(f"/weights/{NAME}", None)]
    assert capsys.readouterr().err == "", "a bar where nobody watches"
    assert fetch(NAME, SHA256) == path
    assert len(server.requests) == 1
    assert not parts(cache)


def test_a_terminal_has_a_bar(fetch, server, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetch(NAME, SHA256)
    assert "network.safetensors: 100%" in capsys.readouterr().err


def test_the_platforms_cache_without_the_variable(fetch, tmp_path, monkeypatch):
    monkeypatch.delenv("IRNET_TF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform != "linux":
        pytest.skip("XDG_CACHE_HOME is Linux's")
    path = put(tmp_path / "xdg" / "irnet_tf", CONTENT)
    assert fetch(NAME, SHA256) == path


def test_found_nowhere(fetch, cache):
    with pytest.raises(FileNotFoundError, match="IRNET_TF_WEIGHTS_URL") as error:
        fetch(NAME, SHA256)
    assert str(cache / NAME) in str(error.value)


@pytest.mark.parametrize("place", ["package", "cache"])
def test_a_wrong_hash_is_an_error_that_names_both(fetch, tmp_path, place):
    path = put(tmp_path / place, CONTENT[:-1])
    with pytest.raises(ValueError) as error:
        fetch(NAME, SHA256)
    for text in (str(path), SHA256, hashlib.sha256(CONTENT[:-1]).hexdigest()):
        assert text in str(error.value)


def test_a_damaged_cached_file_is_downloaded_anew(fetch, cache, server):
    put(cache, CONTENT[:1000])
    assert fetch(NAME, SHA256).read_bytes() == CONTENT


def test_a_wrong_hash_at_the_address(fetch, cache, server):
    server.content = CONTENT[:-1] + b"\0"
    with pytest.raises(ValueError, match="IRNET_TF_WEIGHTS_URL") as error:
        fetch(NAME, SHA256)
    assert SHA256 in str(error.value)
    assert hashlib.sha256(server.content).hexdigest() in str(error.value)
    assert not visible(cache) and not parts(cache)
    server.content = CONTENT
    assert fetch(NAME, SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [True, False])
def test_a_connection_cut_half_way(fetch, cache, server, announced):
    server.length = announced
    server.cuts = [len(CONTENT) // 2]
    if announced:
        assert fetch(NAME, SHA256).read_bytes() == CONTENT
        assert [r for _, r in server.requests] == [None, f"bytes={len(CONTENT) // 2}-"]
        assert server.sent == len(CONTENT)  # nothing twice
    else:  # who was not told the length cannot know that something lacks, but for the hash
        with pytest.raises(ValueError, match=SHA256):
            fetch(NAME, SHA256)
        assert not visible(cache)
        assert fetch(NAME, SHA256).read_bytes() == CONTENT


def test_cut_again_and_again_then_resumed_by_the_next_call(fetch, cache, server):
    server.cuts = [1000, 0]
    with pytest.raises(ConnectionError, match="after 1000 bytes.*try again"):
        fetch(NAME, SHA256)
    assert not visible(cache)
    assert [p.stat().st_size for p in parts(cache)] == [1000]
    assert fetch(NAME, SHA256).read_bytes() == CONTENT
    assert server.sent == len(CONTENT)
    assert not parts(cache)


def test_a_server_that_always_cuts_is_given_up(fetch, cache, server):
    server.cuts = [1000] * 100
    with pytest.raises(ConnectionError, match="after 5000 bytes"):
        fetch(NAME, SHA256)
    assert not visible(cache)


def test_a_server_without_ranges_starts_anew(fetch, cache, server):
    server.ranges = False
    server.cuts = [len(CONTENT) // 2]
    assert fetch(NAME, SHA256).read_bytes() == CONTENT


def part_of(cache, content):
    path = put(cache, b"")
    path.unlink()
    path.with_name(f".{path.name}.{SHA256[:16]}.part").write_bytes(content)


def test_a_part_that_does_not_fit_is_started_anew(fetch, cache, server):
    part_of(cache, b"something else")
    assert fetch(NAME, SHA256).read_bytes() == CONTENT
    assert [r for _, r in server.requests] == ["bytes=14-", None]


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"more", b"x" * len(CONTENT)])
def test_a_part_of_full_length(fetch, cache, server, content):
    part_of(cache, content)
    assert fetch(NAME, SHA256).read_bytes() == CONTENT
    assert not parts(cache)


@pytest.mark.parametrize(("status", "kind"), [(404, FileNotFoundError), (503, OSError)])
def test_what_the_server_says_is_told(fetch, cache, server, status, kind):
    server.status = status
    with pytest.raises(kind, match=f"{NAME}.*{status}"):
        fetch(NAME, SHA256)
    assert not visible(cache)


def test_no_server(fetch, cache, server):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ConnectionError, match="IRNET_TF_WEIGHTS_URL"):
        fetch(NAME, SHA256)
    assert not visible(cache)


@pytest.mark.parametrize("name", ["", "../x", "/etc/x", "a/../../x", "a\\x"])
def test_names_that_leave_the_folder(fetch, name):
    with pytest.raises(ValueError, match="relative path"):
        fetch(name, SHA256)


@pytest.mark.parametrize("sha256", ["", SHA256[:-1], SHA256.upper()])
def test_hashes_that_are_none(fetch, sha256):
    with pytest.raises(ValueError, match="64 lower-case"):
        fetch(NAME, sha256)


def test_addresses_other_than_http(fetch, monkeypatch):
    monkeypatch.setenv("IRNET_TF_WEIGHTS_URL", "file:///etc")
    with pytest.raises(ValueError, match="http"):
        fetch(NAME, SHA256)


def test_a_server_that_sends_without_end(fetch, cache, server):
    server.endless = (100_000, 0)
    with pytest.raises(ValueError, match=f"sends more than the {len(CONTENT)} bytes"):
        fetch(NAME, SHA256, len(CONTENT))
    server.endless = None
    assert server.sent < 50 * len(CONTENT)  # what the network's buffers took beyond
    assert not visible(cache) and sum(p.stat().st_size for p in parts(cache)) == 0
    assert fetch(NAME, SHA256, len(CONTENT)).read_bytes() == CONTENT


def test_a_longer_file_is_refused_by_what_is_announced(fetch, cache, server):
    server.content = CONTENT * 20
    with pytest.raises(ValueError, match="sends more than"):
        fetch(NAME, SHA256, len(CONTENT))
    assert sum(p.stat().st_size for p in parts(cache)) == 0


def test_a_server_that_trickles_is_given_up(fetch, cache, server, monkeypatch):
    monkeypatch.setitem(fetch.__globals__, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setitem(fetch.__globals__, "LOWEST_RATE", len(CONTENT))
    server.endless = (2, 0.05)
    begin = time.monotonic()
    with pytest.raises(ConnectionError, match="slower than"):
        fetch(NAME, SHA256, len(CONTENT))
    server.endless = None
    assert time.monotonic() - begin < 20


def test_a_server_whose_headers_never_end_is_given_up(fetch, cache, server, monkeypatch):
    monkeypatch.setitem(fetch.__globals__, "TIMEOUT_SECONDS", 0.5)
    server.endless, server.endless_headers = (2, 0.05), True
    begin = time.monotonic()
    with pytest.raises(ConnectionError, match="no answer within 1.0 seconds"):
        fetch(NAME, SHA256, len(CONTENT))
    server.endless = None
    assert server.sent > 4 and time.monotonic() - begin < 20


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_redirects_to_other_than_http_are_not_followed(fetch, server, address):
    server.redirect = address
    with pytest.raises((ValueError, OSError), match="neither http nor https|is not allowed"):
        fetch(NAME, SHA256)


def test_passwords_and_terminal_codes_are_not_repeated(fetch, server, monkeypatch):
    base = server.url.replace("//", "//user:s3cret@")
    monkeypatch.setenv("IRNET_TF_WEIGHTS_URL", base)
    server.status, server.reason = 503, "busy \x1b[2J\x1b]0;title\x07" + "x" * 1000
    with pytest.raises(OSError, match="503 busy") as error:
        fetch(NAME, SHA256)
    assert "s3cret" not in str(error.value) and str(error.value).isprintable()
    assert len(str(error.value)) < 600 and error.value.__cause__ is None
    assert server.authorization.startswith("Basic ")
    server.status = None
    assert fetch(NAME, SHA256).read_bytes() == CONTENT
    for url in ("http://user:s3cret@host name:x", "ftp://user:s3cret@host"):
        monkeypatch.setenv("IRNET_TF_WEIGHTS_URL", url)
        with pytest.raises((OSError, ValueError)) as error:
            fetch("other", SHA256)
        assert "s3cret" not in str(error.value)


def start(script):
    return subprocess.Popen(
        [sys.executable, "-c", LOAD + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_download_once(cache, server):
    server.gate.clear()  # hold the first one's download until both have begun
    script = f"""
import sys
print("begun", flush=True)
path = module.fetch({NAME!r}, {SHA256!r})
print(path, "tensorflow" in sys.modules)
"""
    processes = [start(script) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "begun\n"
    server.gate.set()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out == f"{cache / NAME} False\n"
    assert (cache / NAME).read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert visible(cache) == [Path(NAME).name] and not parts(cache)


def test_a_killed_download_is_resumed_and_locks_nobody_out(fetch, cache, server):
    part_of(cache, CONTENT[:1000])
    server.gate.clear()
    process = start(f"module.fetch({NAME!r}, {SHA256!r})")
    while not server.requests:
        assert process.poll() is None
    process.kill()
    process.communicate(timeout=60)
    server.gate.set()
    assert fetch(NAME, SHA256).read_bytes() == CONTENT
    assert server.requests[-1][1] == "bytes=1000-"
