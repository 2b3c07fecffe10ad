"""Weights files: in the package, in a cache folder, or downloaded into it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

PACKAGE_FOLDER = Path(__file__).parent / "weights"


def fetch(file_name: str, sha256: str, size: int) -> Path:
    """The path of a weights file with the given size and SHA-256.

    Searches the package, then the cache folder (environment variable `IRNET_TF_CACHE`, by default
    the platform's), then downloads `IRNET_TF_WEIGHTS_URL/file_name` into the cache folder.

    Raises:
        ValueError: If the file has another size or SHA-256, or the address is not http(s).
        FileNotFoundError: If the file is in none of the three places.
        OSError: If the download fails.
    """
    import pooch

    cache = Path(os.environ.get("IRNET_TF_CACHE") or pooch.os_cache("irnet_tf")).expanduser()
    url = os.environ.get("IRNET_TF_WEIGHTS_URL")
    for path in (PACKAGE_FOLDER / file_name, cache / file_name):
        if path.is_file():
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found == sha256:
                return path
            if not url:
                raise ValueError(f"{path} has SHA-256 {found}, expected {sha256}: delete it")
    if not url:
        raise FileNotFoundError(
            f"{file_name} is neither in the package nor in the cache folder {cache}: set the "
            "environment variable IRNET_TF_WEIGHTS_URL to the address of a folder that has it"
        )
    return _download(f"{url.rstrip('/')}/{quote(file_name)}", cache / file_name, sha256, size)


def _download(url, path, sha256, size):
    import filelock
    import pooch
    import requests
    import tqdm

    def download(url, temporary, _):
        with (
            requests.get(url, auth=auth, stream=True, timeout=60) as response,
            tqdm.tqdm(total=size, unit="B", unit_scale=True, disable=None) as progress,
            open(temporary, "wb") as file,
        ):
            response.raise_for_status()
            for piece in response.iter_content(1 << 16):
                progress.update(file.write(piece))
                if file.tell() > size:
                    raise ValueError(f"{url} sends more than the expected {size} bytes")

    parts = urlsplit(url)
    credentials, _, host = parts.netloc.rpartition("@")
    url = parts._replace(netloc=host).geturl()  # printed, hence without the password
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"IRNET_TF_WEIGHTS_URL must start with http:// or https://, got {url!r}")
    user, _, password = map(unquote, credentials.partition(":"))
    auth = (user, password) if credentials else None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            pooch.retrieve(url, sha256, path.name, path.parent, downloader=download)
    except requests.RequestException as error:
        raise OSError(f"download of {url} failed: {error}") from None
    return path
