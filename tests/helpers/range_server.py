"""A web server on this machine that gives parts of files and lists folders, and counts bytes."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any


class Served:
    """What was asked of a server, and what it gave."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.bytes = 0
        self.requests: list[tuple[str, str]] = []


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits some 40 ms

    def __init__(self, *args: Any, served: list[Served], ranges: bool, **options: Any) -> None:
        self._served, self._ranges = served, ranges
        self._left = -1
        super().__init__(*args, **options)

    def send_head(self) -> Any:
        self._served[0].requests.append((self.command, self.path))
        self._left = -1
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not (self._ranges and match and path.is_file()):
            return super().send_head()
        size = path.stat().st_size
        first, last = int(match[1]), min(int(match[2]), size - 1)
        self.send_response(206)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        file = path.open("rb")
        file.seek(first)
        self._left = last - first + 1
        return file

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while self._left:
            data = source.read(1 << 16 if self._left < 0 else min(1 << 16, self._left))
            if not data:
                return
            self._left -= len(data) if self._left > 0 else 0
            try:
                outputfile.write(data)
            except ConnectionError:  # the reader has had enough
                return
            self._served[0].bytes += len(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(folder: Path, *, ranges: bool = True) -> Iterator[Served]:
    """Serve a folder; with ``ranges=False`` files come as a whole only."""
    served: list[Served] = []
    handler = partial(_Handler, directory=str(folder), served=served, ranges=ranges)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    served.append(Served(f"http://127.0.0.1:{server.server_address[1]}"))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served[0]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
