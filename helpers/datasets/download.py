"""Downloads one large file from the first source that delivers it: resumed, checked, time-limited.

requests transfers the bytes and tqdm shows the progress; this module decides when to give up on a
source.
"""

import hashlib
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten

# A source is given up if it does not respond for 10 s, sends nothing for 20 s, or sends less than
# 200 kB/s over 20 s. So two sources that hang cost a minute and a half, and a download that
# succeeds takes at most about a quarter of an hour.
CONNECT_SECONDS, STALL_SECONDS = 10, 20
SLOWEST, WINDOW_SECONDS = 200_000, 20


class SourceError(OSError):
    """Why a source is given up."""


def fetch_from_any(urls: Iterable[str], part: Path, size: int, md5: str) -> None:
    """Completes `part` to the file of `size` bytes and checksum `md5`, from one of `urls`.

    Each is tried twice, in turn; all serve the same bytes, so what `part` already holds is not
    downloaded again. Raises OSError, with a reason for each source, if none delivers; what has
    arrived stays in `part` for the next call.
    """
    from urllib3.exceptions import HTTPError  # here: everything else works without it

    reasons = {}
    for url in 2 * list(urls):
        print(f"downloading {size / 1e6:,.0f} MB from {url} …", file=sys.stderr, flush=True)
        try:
            return complete(url, part, size, md5)
        except (OSError, HTTPError) as reason:  # those of requests are OSErrors
            reasons[url] = shorten(f"{url}: {type(reason).__name__}: {reason}", 100 + len(url))
    lines = list(reasons.values())
    if size_of(part):
        lines.append(f"{size_of(part) / 1e6:.1f} MB are kept, and the next call goes on from there")
    raise OSError(f"{part.stem} could not be downloaded ({'; '.join(lines)})")


def complete(url: str, part: Path, size: int, md5: str) -> None:
    """Completes `part` from `url`; anew if another source or call has begun it with wrong bytes."""
    while True:
        begun = size_of(part)
        if begun < size:
            append(url, part, size)
        if md5_of(part) == md5:
            return
        part.unlink()
        if begun == 0:
            raise SourceError("it serves other bytes (their MD5 is wrong)")


def append(url: str, part: Path, size: int) -> None:
    """One request for the bytes that `part` lacks; each chunk is written as soon as it arrives."""
    import requests
    from tqdm import tqdm

    offset = size_of(part)
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    timeout = (CONNECT_SECONDS, STALL_SECONDS)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        response.raise_for_status()
        if response.status_code != 206:  # the server ignores Range: from the first byte
            offset = 0
        promised = int(response.headers.get("Content-Length", size - offset))
        chunk = response.raw.read1(1 << 16, decode_content=False)
        is_gzip = offset > 0 or not chunk or chunk[0] == 0x1F
        if offset + promised != size or not is_gzip:
            kind = response.headers.get("Content-Type")
            raise SourceError(f"it serves something else ({promised:,} bytes, {kind})")
        bar = tqdm(total=size, initial=offset, unit="B", unit_scale=True, leave=False)
        with bar, open(part, "ab" if offset else "wb") as file:
            start, received = time.monotonic(), 0
            while chunk:
                if bar.n + len(chunk) > size:
                    raise SourceError("it sends more than the file holds")
                file.write(chunk)
                bar.update(len(chunk))
                received += len(chunk)
                seconds = time.monotonic() - start
                if seconds > WINDOW_SECONDS and bar.n < size:
                    if received < SLOWEST * seconds:
                        raise SourceError(f"too slow: {received / seconds / 1000:.0f} kB/s")
                    start, received = time.monotonic(), 0
                chunk = response.raw.read1(1 << 16, decode_content=False)
        if bar.n < size:
            raise requests.ConnectionError(f"the connection broke off after {bar.n:,} bytes")


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def md5_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
