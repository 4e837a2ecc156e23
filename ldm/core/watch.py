"""Whether the other processes of a run are still there, whatever this one is busy with.

The system closes the connections of a process that is killed, and gives up those to a machine that
no longer answers: so a slow process is never taken for a lost one. Whatever exchanges tensors tells
only those who wait for an exchange, and between GPUs often not even them.
"""

import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
from typing import cast

from ldm.core.share import Share

MEETING = 20.0  # seconds that the processes may take to reach each other
# A machine is asked after 10 seconds of silence, then every 5, and is gone after 4 questions.
_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
_LEAVING = b"."


class Watch:
    """Connections of the main process with all others; `lost` is called once where one breaks.

    In a thread of its own. Who leaves in good order says so by `leave`. All processes make one
    together; where they cannot reach the main one at `host` in time there is no `watching`.
    """

    def __init__(self, share: Share, host: str, lost: Callable[[], None]) -> None:
        self._lost, self._left = lost, False
        self._others = _met(share, host) if share.world > 1 else []
        self.watching = share.world == 1 or all(share.gather([bool(self._others)]))
        if not self.watching:
            self._close()
            self._others = []
        if not self._others:
            return
        if hasattr(os, "register_at_fork"):  # a worker that outlives its process must not stand
            os.register_at_fork(after_in_child=self._close)  # in for it
        threading.Thread(target=self._listen, name="watch", daemon=True).start()

    def leave(self) -> None:
        """Say that this process ends because it is done, not because something happened to it."""
        self._left = True
        for other in self._others:
            with suppress(OSError):
                other.sendall(_LEAVING)
        self._close()

    def _close(self) -> None:
        for other in self._others:
            other.close()

    def _listen(self) -> None:
        with DefaultSelector() as selector:
            for other in self._others:
                selector.register(other, EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    selector.unregister(key.fileobj)
                    if not _leaves(cast(socket.socket, key.fileobj)) and not self._left:
                        for other in self._others:  # the others are told without delay
                            with suppress(OSError):
                                other.shutdown(socket.SHUT_RDWR)
                        return self._lost()
        return None


def _leaves(other: socket.socket) -> bool:
    """Whether what can be read of a connection is a farewell, and not its end."""
    try:
        return other.recv(1) == _LEAVING
    except OSError:
        return False


def _met(share: Share, host: str) -> list[socket.socket]:
    """The main process's connections with each other one; theirs with it; [] where there is none.

    The port is any free one. A word that only these processes know keeps strangers out.
    """
    word, server = secrets.token_bytes(16), None
    if share.main:
        with suppress(OSError):
            family = socket.getaddrinfo(host, None)[0][0]
            server = socket.create_server(("", 0), family=family, backlog=share.world)
    port, word = share.gather([(server.getsockname()[1] if server else 0, word)])[0]
    others: list[socket.socket] = []
    try:
        if server is not None:
            server.settimeout(MEETING)
            while len(others) < share.world - 1:
                other = server.accept()[0]
                other.settimeout(MEETING)
                if other.recv(len(word), socket.MSG_WAITALL) == word:
                    others.append(other)
        elif port:
            others.append(socket.create_connection((host, port), timeout=MEETING))
            others[0].sendall(word)
        for other in others:
            other.settimeout(None)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _ALIVE.items():
                if hasattr(socket, name):  # each system has some of them
                    other.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    except OSError:
        for other in others:
            other.close()
        return []
    finally:
        if server is not None:
            server.close()
    return others
