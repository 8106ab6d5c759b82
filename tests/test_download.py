"""helpers.datasets.download against a server on this machine that misbehaves in every way."""

import contextlib
import hashlib
import http.server
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from conftest import archive_of, imitation

from helpers.datasets import cifar10, download

ARCHIVE = cifar10.CIFAR10.filename
FOLDER = cifar10.CIFAR10.base_folder


class Server:
    """Serves a fake CIFAR-10 archive; the first word of the path says how well it behaves."""

    def __init__(self, good: bytes):
        self.good, self.requests, self.first_asked, server = good, [], {}, self
        self.wrong = good[:-9] + bytes([good[-9] ^ 1]) + good[-8:]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                source, _, file = self.path.strip("/").partition("/")
                asked = self.headers.get("Range", "")
                server.requests.append((source, asked))
                server.first_asked.setdefault(source, time.monotonic())
                with contextlib.suppress(OSError):  # the other side hung up
                    if source in dir(self) and file == ARCHIVE:
                        getattr(self, source)(int(asked[6:-1]) if asked else 0)
                    else:
                        self.send_error(404)

            def answer(
                self,
                body: bytes,
                offset: int = 0,
                size: int | None = None,
                status: int | None = None,
                **headers,
            ):
                """Sends `body` from `offset` on, but promises the whole, or `size` bytes."""
                self.send_response(status or (206 if offset else 200))
                for name, value in {
                    "Content-Length": size or len(body) - offset,
                    **headers,
                }.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.end_headers()
                self.wfile.write(body[offset:])

            def fine(self, offset):
                self.answer(server.good, offset)

            def no_range(self, offset):
                self.answer(server.good)

            def encoded(self, offset):  # as some servers label an archive
                self.answer(server.good, offset, Content_Encoding="gzip")

            def no_length(self, offset):
                self.send_response(206 if offset else 200)
                self.end_headers()
                self.wfile.write(server.good[offset:])

            def moved(self, offset):
                self.send_response(302)
                self.send_header("Location", f"/fine/{ARCHIVE}")
                self.end_headers()

            def loop(self, offset):
                self.send_response(301)
                self.send_header("Location", f"/loop/{ARCHIVE}")
                self.end_headers()

            def wrong(self, offset):
                self.answer(server.wrong, offset)

            def half(self, offset):  # half of the file, then the end of the connection
                self.answer(server.good[: len(server.good) // 2], offset, len(server.good) - offset)

            def half_wrong(self, offset):
                self.answer(
                    server.good[:1] + server.good[99 : len(server.good) // 2], 0, len(server.good)
                )

            def thirds(self, offset):  # a third of the file at a time
                self.answer(
                    server.good[: offset + len(server.good) // 3 + 1],
                    offset,
                    len(server.good) - offset,
                )

            def stalls(self, offset):
                self.answer(server.good[: offset + 1000], offset, len(server.good) - offset)
                time.sleep(STALLED)

            def silent(self, offset):
                time.sleep(STALLED)

            def trickles(self, offset):  # one byte at a time: no stall, and no progress
                self.answer(server.good[: offset + 1], offset, len(server.good) - offset)
                for byte in server.good[offset + 1 : offset + 100]:
                    time.sleep(0.05)
                    self.wfile.write(bytes([byte]))

            def slow(self, offset):  # 20 kB/s
                self.answer(server.good[: offset + 1], offset, len(server.good) - offset)
                for start in range(offset + 1, offset + 100_000, 1000):
                    time.sleep(0.05)
                    self.wfile.write(server.good[start : start + 1000])

            def page(self, offset):
                self.answer(b"<html>" + b"Please log in. " * 99, Content_Type="text/html")

            def long_page(self, offset):
                self.answer(
                    (b"<html>" + b"Please log in. " * 999_999)[: len(server.good)],
                    Content_Type="text/html",
                )

            def endless(self, offset):
                self.send_response(200)
                self.end_headers()
                while True:
                    self.wfile.write(server.good)

            def empty(self, offset):
                self.answer(b"", size=len(server.good))

            def forbidden(self, offset):
                self.send_error(403)

            def busy(self, offset):
                self.answer(b"", status=503)

            def first_busy(self, offset):
                first = sum(source == "first_busy" for source, _ in server.requests) == 1
                self.answer(*(b"", 0, None, 503) if first else (server.good, offset))

            def log_message(self, *arguments):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads, self.http.block_on_close = True, False
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, source: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{source}/"


STALLED = 2.0  # seconds
BAD = "absent forbidden wrong half half_wrong stalls silent trickles slow page long_page".split()
BAD += "endless empty busy loop".split()


@pytest.fixture(scope="module")
def running(fake_files):
    server = Server(
        archive_of({f"{FOLDER}/{file}": content for file, content in fake_files.items()})
    )
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def server(monkeypatch, running, fake_files):
    """`server("slow", "fine")` makes these two behaviours the sources; time limits are short."""
    md5 = hashlib.md5(running.good).hexdigest()
    fake = imitation(cifar10.CIFAR10, fake_files, size=len(running.good), tgz_md5=md5)
    limits = {"CONNECT_SECONDS": 1, "STALL_SECONDS": 0.5, "WINDOW_SECONDS": 0.5}
    for name, value in limits.items():
        monkeypatch.setattr(download, name, value)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CIFAR10_URL", raising=False)
    running.requests.clear()
    running.first_asked.clear()

    def use(*sources):
        fake.url, *fake.mirrors = [running.url(source) for source in sources] or [""]
        monkeypatch.setattr(cifar10, "CIFAR10", fake)
        return running

    return use


def fetch_into(root: Path) -> None:
    cifar10.download(cifar10.CIFAR10, root)


def arrived(root: Path, files: dict[str, bytes]) -> bool:
    """Is everything there, and nothing else?"""
    folder = root / FOLDER
    names = {path.name for path in folder.iterdir()}
    return (
        [*root.iterdir()] == [folder]
        and names == set(files)
        and all((folder / f).read_bytes() == files[f] for f in files)
    )


def asked(server: Server) -> list[str]:
    """The sources that were asked, in order, each once."""
    return list(dict.fromkeys(source for source, _ in server.requests))


@pytest.mark.parametrize("source", ["fine", "no_range", "encoded", "no_length", "moved"])
def test_the_archive_is_fetched_checked_and_unpacked(server, tmp_path, fake_files, source):
    server(source, "absent")
    fetch_into(tmp_path / "data")
    assert arrived(tmp_path / "data", fake_files)
    assert "absent" not in asked(server(source))


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_source_is_given_up_for_the_next_one_in_time(server, tmp_path, fake_files, bad):
    running, start = server(bad, "fine"), time.monotonic()
    fetch_into(tmp_path / "data")
    assert arrived(tmp_path / "data", fake_files)
    assert asked(running) == [bad, "fine"]
    # up to 2.5 s, nearly all of it waiting; the real limits are stated in helpers.download
    assert running.first_asked["fine"] - start < 10


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_fetched_is_one_line_and_a_later_call_goes_on(
    server, tmp_path, fake_files, bad
):
    root = tmp_path / "data"
    server(bad)
    with pytest.raises(OSError, match=f"could not be downloaded.*{bad}") as stop:
        fetch_into(root)
    assert "\n" not in str(stop.value) and len(str(stop.value)) < 300
    assert ("too slow" in str(stop.value)) == (bad in ("slow", "trickles"))
    part = root / f"{ARCHIVE}.part"
    kept = part.stat().st_size if part.exists() else 0
    assert (kept > 0) == (bad in "half half_wrong stalls trickles slow endless".split())
    assert [*root.iterdir()] == ([part] if kept else [])
    assert ("MB are kept" in str(stop.value)) == (kept > 0)
    running = server("fine")
    running.requests.clear()
    fetch_into(root)
    assert arrived(root, fake_files)
    if 0 < kept < len(running.good):
        assert running.requests[0] == ("fine", f"bytes={kept}-")
    assert len(running.requests) == (
        2 if bad == "half_wrong" else 1
    )  # what was wrong was fetched anew, from the first byte


def test_a_source_without_range_starts_from_the_first_byte(server, tmp_path, fake_files):
    running = server("half", "no_range")
    fetch_into(tmp_path / "data")
    assert arrived(tmp_path / "data", fake_files)
    assert running.requests[-1] == ("no_range", f"bytes={len(running.good) // 2}-")


def test_what_is_left_may_come_without_its_length(server, tmp_path, fake_files):
    running = server("half", "no_length")
    fetch_into(tmp_path / "data")
    assert arrived(tmp_path / "data", fake_files)
    assert (
        running.requests[-1] == ("no_length", f"bytes={len(running.good) // 2}-")
        and len(asked(running)) == 2
    )


def test_a_source_that_breaks_off_gets_a_second_turn(server, tmp_path, fake_files):
    running = server("first_busy", "thirds")
    fetch_into(tmp_path / "data")
    third = len(running.good) // 3 + 1
    assert running.requests == [
        ("first_busy", ""), ("thirds", ""), ("first_busy", f"bytes={third}-")
    ]  # fmt: skip
    assert arrived(tmp_path / "data", fake_files)


def test_a_port_where_nobody_answers(server, tmp_path, monkeypatch):
    server()
    with socket.socket() as bound:  # bound, but not listening
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CIFAR10_URL", f"http://127.0.0.1:{bound.getsockname()[1]}/x.tar.gz")
        with pytest.raises(OSError, match=r"could not be downloaded.*x\.tar\.gz"):
            fetch_into(tmp_path / "data")


@pytest.mark.parametrize("ending", ["", "cifar-10-python.tar.gz"])
def test_CIFAR10_URL_is_tried_first(server, tmp_path, monkeypatch, fake_files, ending):
    running = server("wrong")
    monkeypatch.setenv("CIFAR10_URL", running.url("fine") + ending)
    fetch_into(tmp_path / "data")
    assert arrived(tmp_path / "data", fake_files) and asked(running) == ["fine"]


def test_two_processes_at_once_fetch_it_once(server, tmp_path, fake_files):
    running = server("fine")
    both = [
        threading.Thread(target=fetch_into, args=(tmp_path / "data",)) for _ in range(2)
    ]  # each has its own lock
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert arrived(tmp_path / "data", fake_files) and len(running.requests) == 1


def test_an_archive_put_there_by_hand_is_unpacked_and_kept(server, tmp_path, fake_files):
    running, archive = server(), tmp_path / ARCHIVE
    archive.write_bytes(running.good)
    fetch_into(tmp_path)
    archive.unlink()
    assert arrived(tmp_path, fake_files) and running.requests == []


def test_a_full_disk_is_one_line(server, tmp_path, monkeypatch):
    root = tmp_path / "data"
    root.mkdir()
    (root / f"{ARCHIVE}.part").symlink_to("/dev/full")
    server("fine")
    with pytest.raises(OSError, match="No space left on device"):
        fetch_into(root)
    assert not (root / FOLDER).exists()
