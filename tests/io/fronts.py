"""Listeners that stand before real servers, or in place of them: TLS, which the embedded ones do not have, and strangers."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CERTIFICATE = Path(__file__).with_name("localhost.pem")  # for localhost and 127.0.0.1, signed by itself, with its key


def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


@contextmanager
def listening(serve: Callable[[socket.socket], None], port: int = 0) -> Iterator[int]:
    """The port where each connection is given to `serve`, in a thread of its own; it is closed afterwards."""
    listener = socket.create_server(("127.0.0.1", port))

    def one(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=[listener.accept()[0]], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def tls_before(behind: int, port: int = 0) -> Iterator[int]:
    """The port of a TLS listener that leads to port `behind`."""

    def serve(plain: socket.socket) -> None:
        with tls().wrap_socket(plain, server_side=True) as near, socket.create_connection(("127.0.0.1", behind)) as far:
            back = threading.Thread(target=_pass_on, args=[far, near], daemon=True)
            back.start()
            _pass_on(near, far)
            back.join()

    with listening(serve, port) as front:
        yield front


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
