"""The server of the web page: one page, one address that takes a picture and answers with its poses."""

import io
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from querypose.errors import UserError
from querypose.image_files import ImageFileError, open_image, upright

PAGE = Path(__file__).with_name("page.html")
MAX_CONNECTIONS = 16
SOCKET_TIMEOUT = 30  # seconds that a client may be silent
RECEIVE_TIMEOUT = 60  # seconds for a whole request: a client may not trickle it, byte by byte, for ever


class PoseServer(ThreadingHTTPServer):
    """Serves the page and analyses the pictures sent to it, a bounded number at a time.

    GET / is the page. POST /poses takes the bytes of an image file and answers with JSON: what `analyze` returns, or
    {"error": sentence} with status 400 (no image), 408 (too slow), 411 (no length), 413 (too large) or 503 (busy).
    """

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        analyze: Callable[[np.ndarray], dict],
        *,
        max_upload: int = 20_000_000,
        max_pixels: int = 40_000_000,
        max_analyses: int = 1,
        max_wait: float = 20.0,
        receive_timeout: float = RECEIVE_TIMEOUT,
    ):
        """
        Args:
            address: host and port; port 0 takes a free one.
            analyze: from an image (H, W, 3) uint8 RGB to what the page shows.
            max_upload: bytes of a file. max_pixels: of the image in it.
            max_analyses: analyses that run at the same time; others wait for max_wait seconds.
            receive_timeout: seconds within which a whole request must arrive.
        """
        self.analyze = analyze
        self.max_upload = max_upload
        self.max_pixels = max_pixels
        self.max_wait = max_wait
        self.receive_timeout = receive_timeout
        self.analyses = threading.BoundedSemaphore(max_analyses)
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """The page's address."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}/"

    def process_request(self, request, client_address):
        """Answer in a thread of its own, or hang up while there are too many of them."""
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        """Answer, then make room for the next."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()


def decode_image(content: bytes, max_pixels: int) -> np.ndarray:
    """The image in the bytes of a file, upright, (H, W, 3) uint8 RGB; its size is looked at before it is decoded.

    Raises:
        UserError: no image, a damaged one or one of more than max_pixels.
    """
    try:
        with open_image(io.BytesIO(content), max_pixels) as opened:
            return np.array(upright(opened).convert("RGB"))
    except ImageFileError as error:
        raise UserError(f"the image cannot be read: {error}; try a smaller one, as JPEG or PNG") from error


class _Handler(BaseHTTPRequestHandler):
    server_version = "QueryPose"
    sys_version = ""
    timeout = SOCKET_TIMEOUT

    def setup(self):
        """Give the request a time to be there by."""
        super().setup()
        self._receiving = threading.Timer(self.server.receive_timeout, self._hang_up)
        self._receiving.daemon = True
        self._receiving.start()

    def finish(self):
        """The timer ends with the request."""
        self._receiving.cancel()
        super().finish()

    def _hang_up(self):
        try:
            # whoever waits for more of it now gets its end
            self.connection.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # gone already

    def do_GET(self):
        if self.path != "/":
            self._send_json(404, {"error": f"there is nothing at {self.path}"})
            return
        self._send(200, "text/html; charset=utf-8", PAGE.read_bytes())

    def do_POST(self):
        self.close_connection = True
        if self.path != "/poses":
            self._send_json(404, {"error": f"there is nothing at {self.path}"})
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._send_json(411, {"error": "the request does not say how long the file is"})
            return
        if int(length) > self.server.max_upload:
            limit = self.server.max_upload / 1e6
            self._send_json(413, {"error": f"the file has {int(length) / 1e6:.1f} MB; at most {limit:g} are taken"})
            return
        # before it is this picture's turn, so that a slow upload keeps nobody else waiting; the memory that waiting
        # uploads take is bounded by the number of connections
        content = self.rfile.read(int(length))
        self._receiving.cancel()
        if len(content) < int(length):
            self._send_json(408, {"error": "the file did not arrive in time; try again, or a smaller one"})
            return
        if not self.server.analyses.acquire(timeout=self.server.max_wait):
            self._send_json(503, {"error": "busy with other pictures; try again in a moment"})
            return
        try:
            answer = 200, self.server.analyze(decode_image(content, self.server.max_pixels))
        except UserError as error:
            answer = 400, {"error": str(error)}
        except Exception as error:
            self.log_error("analysis failed: %r", error)
            answer = 500, {"error": "the analysis failed; the server's log says more"}
        finally:
            self.server.analyses.release()
        self._send_json(*answer)

    def log_message(self, format, *args):
        """Say nothing about requests that went well."""
        if format.startswith("analysis"):
            super().log_message(format, *args)

    def _send_json(self, status: int, value: dict):
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, kind: str, content: bytes):
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header(
                "Content-Security-Policy",
                "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
                "connect-src 'self'",
            )
            self.end_headers()
            self.wfile.write(content)
        except ConnectionError:
            pass  # the visitor has gone
