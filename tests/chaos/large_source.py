"""A large file that comes slowly, in any part that is asked for, and who asked for which."""

import hashlib
import random
import re
import time
from http.server import BaseHTTPRequestHandler

MIB = 1024 * 1024
_STEP = 256 * 1024


class LargeSource:
    """Answers for `path`.

    Attributes:
        begun: the first byte of each request.
        sent: bytes, of all of them.
    """

    def __init__(self, path: str, mib: int, mib_a_second: float) -> None:
        self.path, self._pause = path, _STEP / (mib_a_second * MIB)
        self._body = random.Random(path).randbytes(mib * MIB)
        self.sha256 = hashlib.sha256(self._body).hexdigest()
        self.begun: list[int] = []
        self.sent = 0

    def __call__(self, handler: BaseHTTPRequestHandler, name: str, _: int) -> bool:
        if name != self.path:
            return False
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        first, stop = (int(span[1]), int(span[2]) + 1) if span else (0, len(self._body))
        self.begun.append(first)
        handler.send_response(206 if span else 200)
        headers = {"Content-Length": str(stop - first), "ETag": '"the only one"', "Accept-Ranges": "bytes"}
        if span:
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{len(self._body)}"
        for each, value in headers.items():
            handler.send_header(each, value)
        handler.end_headers()
        try:
            for at in range(first, stop, _STEP):
                self.sent += handler.wfile.write(self._body[at : min(at + _STEP, stop)])
                time.sleep(self._pause)
        except ConnectionError:
            handler.close_connection = True
        return True
