"""Finds weight files: in the package, in a cache folder, or at a base address."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import pathlib
import re
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
TIMEOUT_SECONDS = 30
ATTEMPTS = 5

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
            _download(url, cached, sha256)
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
        raise ValueError(f"IRNET_TF_WEIGHTS_URL must begin with http:// or https://, got {base!r}")
    return f"{base.rstrip('/')}/{urllib.parse.quote(file_name)}"


def _sha256_or_none(path):
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


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


def _download(url, path, sha256):
    # The hash in the name: what is there of another version is of no use.
    part = path.with_name(f".{path.name}.{sha256[:16]}.part")
    resumed = part.exists()
    _receive(url, part, path.name)
    found = _sha256_or_none(part)
    if found != sha256 and resumed:
        part.unlink()
        _receive(url, part, path.name)
        found = _sha256_or_none(part)
    if found != sha256:
        part.unlink()
        raise ValueError(
            f"{url} has SHA-256 {found}, expected {sha256}: the file there is damaged or another "
            "version's. Set IRNET_TF_WEIGHTS_URL to where the files of this version are"
        )
    os.replace(part, path)


def _receive(url, part, title):
    """Completes the file `part`; what has arrived stays there if that fails."""
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(part)
        try:
            return _receive_once(url, part, title)
        except urllib.error.HTTPError as error:
            kind = FileNotFoundError if error.code in (404, 410) else OSError
            raise kind(
                f"{url}: the server answers {error.code} {error.reason}; is "
                "IRNET_TF_WEIGHTS_URL right?"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS or _size(part) <= before:
                raise ConnectionError(
                    f"download of {url} failed after {_size(part)} bytes: {error}. They are kept "
                    f"in {part}: try again to go on, or see whether IRNET_TF_WEIGHTS_URL is right"
                ) from error


def _receive_once(url, part, title):
    with open(part, "ab") as file:
        offset = file.tell()
        request = urllib.request.Request(url, headers={"User-Agent": "irnet_tf"})
        if offset:
            request.add_header("Range", f"bytes={offset}-")
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            if offset and error.code == 416:  # nothing is left to send
                return
            raise
        with response:
            content_range = response.headers.get("Content-Range", "")
            if response.status != 206 or not content_range.startswith(f"bytes {offset}-"):
                offset = file.seek(0)  # the server sends the whole file
                file.truncate()
            length = response.headers.get("Content-Length")
            total = offset + int(length) if length else None
            received = offset
            with tqdm.tqdm(
                desc=title, total=total, initial=offset, unit="B", unit_scale=True
            ) as bar:
                while chunk := response.read(_CHUNK):
                    received += file.write(chunk)
                    bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and received < total:
        raise ConnectionError(f"the connection was cut, {total} bytes were announced")


def _size(path):
    return path.stat().st_size if path.exists() else 0
