"""A bounded store that makes each value once, however many threads ask for it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Makes each value once, however many threads ask; the least recently asked for are dropped beyond ``limit``."""

    def __init__(self, limit: int, dropped: Callable[[Hashable], None] = lambda _: None) -> None:
        self._limit = limit
        self._dropped = dropped
        self._lock = threading.Lock()
        self._made: OrderedDict[Hashable, Future[T]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``, made now if this is the first call for it; a failure is not kept."""
        with self._lock:
            future = self._made.get(key)
            mine = future is None
            if future is None:
                future = self._made[key] = Future()
            self._made.move_to_end(key)
            excess = [old for old in list(self._made)[: max(0, len(self._made) - self._limit)] if old != key]
            for old in excess:
                del self._made[old]
        for old in excess:
            self._dropped(old)
        if not mine:
            return future.result()
        try:
            future.set_result(make())
        except BaseException as error:
            with self._lock:
                self._made.pop(key, None)
            future.set_exception(error)
            raise
        return future.result()

    def values(self) -> list[T]:
        """What has been made and is still held."""
        with self._lock:
            done = [future for future in self._made.values() if future.done() and future.exception() is None]
        return [future.result() for future in done]

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._made.clear()
