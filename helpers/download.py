"""One large file from whichever source delivers it: resumed, checked, with time limits. Knows nothing about CIFAR-10.

requests brings the bytes and tqdm shows them; what stands here is when to wait, when to go on and when to leave a source.
"""

import hashlib
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten

# A source is left when it does not answer for 10 s or sends nothing for 20 s, three times in a row without 1 MB of progress in
# between; when it asks to wait for more than 30 s; and when it sends less than 200 kB/s over 20 s. So two sources that hang
# cost about two minutes and a half, and a download that succeeds takes at most a quarter of an hour or so.
CONNECT_SECONDS, STALL_SECONDS, TRIES, PROGRESS = 10, 20, 3, 1_000_000
LONGEST_WAIT, WAIT = 30, 2
SLOWEST, WINDOW_SECONDS = 200_000, 20


class SourceError(OSError):
    """Why a source is left: trying it again would not help."""


def fetch_from_any(urls: Iterable[str], part: Path, size: int, md5: str) -> None:
    """Completes `part` to the file of `size` bytes and checksum `md5`, from the first of `urls` that delivers it.

    What `part` already holds is not fetched again. Raises OSError, with a reason for each source, where none delivers; what
    has arrived stays in `part` for the next call.
    """
    reasons = []
    for url in urls:
        print(f"fetching {size / 1e6:,.0f} MB from {url} …", file=sys.stderr, flush=True)
        try:
            return fetch(url, part, size, md5)
        except OSError as reason:
            reasons.append(f"{url}: {shorten(f'{type(reason).__name__}: {reason}', 100)}")
    kept = f"; {size_of(part) / 1e6:.1f} MB are kept, and the next call goes on from there" if size_of(part) else ""
    raise OSError(f"{part.stem} could not be fetched (" + "; ".join(reasons) + kept + ")")


def fetch(url: str, part: Path, size: int, md5: str) -> None:
    """Completes `part` from `url`, trying again after a pause where that may help. Raises OSError where it gives up."""
    import requests  # here, so that everything else works without it
    from urllib3.exceptions import HTTPError

    failures = 0
    while True:
        before, wait = size_of(part), WAIT * 2**failures
        try:
            if before < size:
                append(url, part, size)
            if md5_of(part) == md5:
                return
            part.unlink()
            if before == 0:
                raise SourceError("it serves other bytes (their MD5 is wrong)")
            continue  # begun by another call, or from another source: once more, from the first byte
        except (requests.ConnectionError, requests.Timeout, HTTPError, TimeoutError) as problem:
            reason = problem
        except requests.HTTPError as problem:  # an answer, but an error: 429 and 503 may say when to ask again
            reason, status, asked = problem, problem.response.status_code, problem.response.headers.get("Retry-After", "")
            if status == 416:  # what we have is longer than what there is
                part.unlink()
            elif status not in (408, 429, 500, 502, 503, 504):
                raise
            wait = int(asked) if asked.isdigit() else wait
        failures = 1 if size_of(part) > before + PROGRESS else failures + 1
        if failures == TRIES or wait > LONGEST_WAIT:
            raise SourceError(f"{reason}") from None
        time.sleep(wait)


def append(url: str, part: Path, size: int) -> None:
    """One request for what `part` lacks; what arrives is written at once, so that it is there for the next one."""
    import requests
    from tqdm import tqdm

    offset = size_of(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS)) as response:
        response.raise_for_status()
        if response.status_code != 206:  # the server ignores Range: from the first byte
            offset = 0
        promised = int(response.headers.get("Content-Length", size - offset))
        chunk = response.raw.read1(1 << 16, decode_content=False)
        if offset + promised != size or (offset == 0 and chunk and chunk[0] != 0x1F):
            raise SourceError(f"it serves something else ({promised:,} bytes, {response.headers.get('Content-Type')})")
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
