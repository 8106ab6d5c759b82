"""Downloads one large file from the first source that delivers it: resumed, checked, time-limited.

requests transfers the bytes and tqdm shows the progress; this module decides when to wait, when to
try again and when to give up on a source.
"""

import hashlib
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten

# A source is given up if it does not respond for 10 s or sends nothing for 20 s, three times in a
# row without 1 MB of progress in between; if it asks to wait for more than 30 s; and if it sends
# less than 200 kB/s over 20 s. So two sources that hang cost about two and a half minutes, and a
# download that succeeds takes at most about a quarter of an hour.
CONNECT_SECONDS, STALL_SECONDS, TRIES, PROGRESS = 10, 20, 3, 1_000_000
LONGEST_WAIT, WAIT = 30, 2
SLOWEST, WINDOW_SECONDS = 200_000, 20
RETRY_STATUS = (408, 429, 500, 502, 503, 504)


class SourceError(OSError):
    """Why a source is given up: trying it again would not help."""


def fetch_from_any(urls: Iterable[str], part: Path, size: int, md5: str) -> None:
    """Completes `part` to the file of `size` bytes and checksum `md5`, from one of `urls`.

    What `part` already holds is not downloaded again. Raises OSError, with a reason for each
    source, if none delivers; what has arrived stays in `part` for the next call.
    """
    reasons = []
    for url in urls:
        print(f"downloading {size / 1e6:,.0f} MB from {url} …", file=sys.stderr, flush=True)
        try:
            return fetch(url, part, size, md5)
        except OSError as reason:
            reasons.append(f"{url}: {shorten(f'{type(reason).__name__}: {reason}', 100)}")
    if size_of(part):
        kept = f"{size_of(part) / 1e6:.1f} MB are kept, and the next call continues from there"
        reasons.append(kept)
    raise OSError(f"{part.stem} could not be downloaded ({'; '.join(reasons)})")


def fetch(url: str, part: Path, size: int, md5: str) -> None:
    """Completes `part` from `url`; pauses and retries where that may help, else raises OSError."""
    import requests  # here, so that everything else works without it
    from urllib3.exceptions import HTTPError

    failures = 0
    while True:
        before = size_of(part)
        wait = WAIT * 2**failures
        try:
            if before < size:
                append(url, part, size)
            if md5_of(part) == md5:
                return
            part.unlink()
            if before == 0:
                raise SourceError("it serves other bytes (their MD5 is wrong)")
            continue  # begun by another call or from another source: again, from the first byte
        except (requests.ConnectionError, requests.Timeout, HTTPError, TimeoutError) as problem:
            reason = problem
        except requests.HTTPError as problem:  # an error status: 429 and 503 may say when to retry
            reason = problem
            status = problem.response.status_code
            if status == 416:  # `part` is longer than the file of this source
                part.unlink()
            elif status not in RETRY_STATUS:
                raise
            retry_after = problem.response.headers.get("Retry-After", "")
            if retry_after.isdigit():
                wait = int(retry_after)
        progressed = size_of(part) > before + PROGRESS
        failures = 1 if progressed else failures + 1
        if failures == TRIES or wait > LONGEST_WAIT:
            raise SourceError(f"{reason}") from None
        time.sleep(wait)


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
                file.write(chunk)
                bar.update(len(chunk))
                received += len(chunk)
                seconds = time.monotonic() - start
                if bar.n > size:
                    raise SourceError("it sends more than the file holds")
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
