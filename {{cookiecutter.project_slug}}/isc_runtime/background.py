"""A thread that does one thing after another, and holds up no end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Like an executor with one thread; but Python does not wait at its end for a thread that is stuck.

    Args:
        name: of the thread.
        prepare: called first, in the thread.
    """

    def __init__(self, name: str, prepare: Callable[[], object] = lambda: None) -> None:
        self._prepare = prepare
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Does it after all that was submitted before; the first time begins the thread."""
        future: Future[T] = Future()
        if self._thread.ident is None:
            self._thread.start()
        self._work.put((future, lambda: function(*arguments)))
        return future

    def close(self, wait: bool) -> None:
        """Nothing more will be submitted. `wait` waits until all is done."""
        self._work.put(None)
        if wait and self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        self._prepare()
        while (work := self._work.get()) is not None:
            future, function = work
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            del work, future, function  # what it held, a copy of the state, is free from here on
