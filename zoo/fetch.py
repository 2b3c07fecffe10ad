"""Finds weight files: in the package, in a cache folder, or at a base address."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import pathlib
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import platformdirs
import tqdm

try:
    import fcntl
except ImportError:  # Windows: there two downloads at once may fail, but never give a bad file
    fcntl = None

PACKAGE_FOLDER = pathlib.Path(__file__).parent / "weights"
TIMEOUT_SECONDS = 30  # without a byte
LOWEST_RATE = 2048  # bytes a second, over a whole download
ATTEMPTS = 5
MAX_BYTES = 1 << 30  # of files whose size is not stated

_CHUNK = 1 << 18


def fetch(file_name: str, sha256: str, size: int | None = None) -> pathlib.Path:
    """The path of a weight file with the given SHA-256.

    Looks in the package, then in the cache folder (the environment variable
    `IRNET_TF_CACHE`, else the platform's), then downloads into the cache folder from
    `IRNET_TF_WEIGHTS_URL/file_name`, with a progress bar. A download that was cut off is gone
    on with; several processes may fetch the same file at once, one of them downloads it.

    Args:
        file_name: of the file, relative, with `/` between folders.
        sha256: what the file's content must have, 64 hexadecimal digits.
        size: bytes that the file must have; nothing more is received. None: at most `MAX_BYTES`.

    Returns:
        The path; whatever way it was found, the content has been checked just now.

    Raises:
        ValueError: for a `file_name` or `sha256` not as above, an address that is not http or
            https, or when a file has another SHA-256 than it should.
        FileNotFoundError: if the file is in none of the three places.
        OSError: if the download, or writing the cache folder, fails.
    """
    parts = pathlib.PurePosixPath(file_name).parts
    if not parts or ".." in parts or os.path.isabs(file_name) or "\\" in file_name:
        raise ValueError(f"file_name must be a relative path, got {file_name!r}")
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ValueError(f"sha256 must be 64 lower-case hexadecimal digits, got {sha256!r}")

    packaged = PACKAGE_FOLDER / file_name
    if packaged.is_file():
        return _checked(packaged, sha256, "install the package anew")
    cached = _cache_folder() / file_name
    if _sha256_or_none(cached) == sha256:
        return cached
    url = _url(file_name)
    if url is None:
        if cached.is_file():
            return _checked(cached, sha256, f"delete it, and {_HOW_TO_DOWNLOAD}")
        raise FileNotFoundError(
            f"{file_name} is not in the package ({packaged}) nor in the cache folder ({cached}); "
            f"{_HOW_TO_DOWNLOAD}, or IRNET_TF_CACHE to a folder that has the file"
        )
    cached.parent.mkdir(parents=True, exist_ok=True)
    with _locked(cached.with_name(f".{cached.name}.lock")):
        if _sha256_or_none(cached) != sha256:  # another process may have been quicker
            _download(url, cached, sha256, size)
    return cached


_HOW_TO_DOWNLOAD = (
    "set the environment variable IRNET_TF_WEIGHTS_URL to the address of a folder that has it"
)


def _cache_folder():
    folder = os.environ.get("IRNET_TF_CACHE") or platformdirs.user_cache_dir("irnet_tf")
    return pathlib.Path(folder).expanduser()


def _url(file_name):
    base = os.environ.get("IRNET_TF_WEIGHTS_URL")
    if not base:
        return None
    if urllib.parse.urlsplit(base).scheme not in ("http", "https"):
        raise ValueError(
            f"IRNET_TF_WEIGHTS_URL must begin with http:// or https://, got {_clean(base)!r}"
        )
    return f"{base.rstrip('/')}/{urllib.parse.quote(file_name)}"


def _clean(text) -> str:
    """For messages: no password of an address, nothing that moves a terminal's cursor."""
    text = re.sub(r"//[^/@\s]*@", "//", str(text))
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _request(url, offset):
    """A request without user and password in its address, which urllib does not understand."""
    parts = urllib.parse.urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(
        parts._replace(netloc=host).geturl(), headers={"User-Agent": "irnet_tf"}
    )
    if credentials:
        encoded = base64.b64encode(urllib.parse.unquote(credentials).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {encoded}")
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    return request


class _OnlyHttp(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, address):
        if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
            raise ValueError(
                f"{_clean(request.full_url)} redirects to {_clean(address)}, which is neither http "
                "nor https: is IRNET_TF_WEIGHTS_URL right?"
            )
        return super().redirect_request(request, file, code, message, headers, address)


def _sha256_or_none(path):
    if not path.exists():
        return None
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file: remove it")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _checked(path, sha256, cure):
    found = _sha256_or_none(path)
    if found != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, expected {sha256}: {cure}")
    return path


@contextlib.contextmanager
def _locked(path):
    """One process, and one thread of it, at a time; the end of a process frees it."""
    with open(path, "ab") as file:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _download(url, path, sha256, size):
    # The hash in the name: what is there of another version is of no use.
    part = path.with_name(f".{path.name}.{sha256[:16]}.part")
    largest = size or MAX_BYTES
    if _size(part) > largest:
        part.unlink()
    resumed = part.exists()
    _receive(url, part, path.name, largest)
    found = _sha256_or_none(part)
    if found != sha256 and resumed:
        part.unlink()
        _receive(url, part, path.name, largest)
        found = _sha256_or_none(part)
    if found != sha256:
        part.unlink()
        raise ValueError(
            f"{_clean(url)} has SHA-256 {found}, expected {sha256}: the file there is damaged or "
            "another version's. Set IRNET_TF_WEIGHTS_URL to where the files of this version are"
        )
    os.replace(part, path)


def _receive(url, part, title, largest):
    """Completes the file `part`; what has arrived stays there if that fails."""
    deadline = time.monotonic() + 2 * TIMEOUT_SECONDS + largest / LOWEST_RATE
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        try:
            return _receive_once(url, part, title, largest, deadline)
        except urllib.error.HTTPError as error:
            kind = FileNotFoundError if error.code in (404, 410) else OSError
            raise kind(
                f"{_clean(url)}: the server answers {error.code} {_clean(error.reason)}; is "
                "IRNET_TF_WEIGHTS_URL right?"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS or _size(part) <= before or time.monotonic() > deadline:
                raise ConnectionError(
                    f"download of {_clean(url)} failed after {_size(part)} bytes: {_clean(error)}. "
                    f"They are kept in {part}: try again to go on, or see whether "
                    "IRNET_TF_WEIGHTS_URL is right"
                ) from None


def _receive_once(url, part, title, largest, deadline):
    with open(part, "ab") as file:
        offset = file.tell()
        try:
            response = _answer(_request(url, offset))
        except urllib.error.HTTPError as error:
            if offset and error.code == 416:  # nothing is left to send
                return
            raise
        with response:
            content_range = response.headers.get("Content-Range", "")
            if response.status != 206 or not content_range.startswith(f"bytes {offset}-"):
                offset = file.seek(0)  # the server sends the whole file
                file.truncate()
            length = response.headers.get("Content-Length", "")
            total = offset + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
            received = offset
            with tqdm.tqdm(
                desc=title, total=total, initial=offset, unit="B", unit_scale=True, disable=None
            ) as bar:
                while True:
                    if max(received, total or 0) > largest:
                        file.truncate(0)
                        raise ValueError(
                            f"{_clean(url)} sends more than the {largest} bytes that the file "
                            "has: is IRNET_TF_WEIGHTS_URL right?"
                        )
                    if time.monotonic() > deadline:
                        raise ConnectionError(f"slower than {LOWEST_RATE} bytes a second")
                    chunk = response.read1(_CHUNK)  # what is there, not all of it
                    if not chunk:
                        break
                    received += file.write(chunk)
                    bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and received < total:
        raise ConnectionError(f"the connection was cut, {total} bytes were announced")


def _answer(request):
    """The server's answer once its headers are there, however slowly they drip."""
    answers = queue.SimpleQueue()

    def ask():
        try:
            opener = urllib.request.build_opener(_OnlyHttp)
            answers.put(opener.open(request, timeout=TIMEOUT_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=2 * TIMEOUT_SECONDS)
    except queue.Empty:
        raise ConnectionError(f"no answer within {2 * TIMEOUT_SECONDS} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _size(path):
    return path.stat().st_size if path.exists() else 0
