"""Calls spread over processes: of this machine, each with one thread, or of a Dask cluster. Results come back
as they finish.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

PATIENCE = 3  # times that workers may die with nothing finished in between


def spread(
    call: Callable[[Any], Any], items: Iterable[Any], workers: int = 0, scheduler: str | None = None
) -> Iterator[tuple[Any, Any]]:
    """``(item, call(item))`` for every one of the hashable ``items``: in order and in this process, or, as
    they finish, in ``workers`` processes of this machine, or on the Dask cluster whose scheduler is at the
    address ``scheduler``.

    A call whose worker is killed is made again by another. ``call`` and items must be picklable, and a
    cluster's workers must have this package, the same files and environment variables. What a call raises is
    raised here, and ends all of them; so does an interrupt, and the processes within a second.
    """
    if not workers and scheduler is None:
        yield from ((item, call(item)) for item in items)
        return
    waiting = dict.fromkeys(items)
    deaths = 0
    while waiting:
        try:
            with _cluster(scheduler) if scheduler is not None else _processes(workers) as pool:
                with _interrupts_ignored():
                    futures = {pool.submit(_alone, call, item): item for item in waiting}
                try:
                    for future in as_completed(futures):
                        result = future.result()  # before the item counts as done
                        waiting.pop(futures[future])
                        deaths = 0
                        yield futures[future], result
                finally:
                    for future in futures if scheduler is not None else ():  # processes end as a whole
                        future.cancel()
        except BrokenProcessPool as error:
            deaths += 1
            if deaths >= PATIENCE:
                raise OSError(
                    f"workers were killed {deaths} times and finished nothing in between: is memory short?"
                ) from error


def _alone(call: Callable[[Any], Any], item: Any) -> Any:
    import torch

    # Sums depend on how many threads share them: a row must not depend on how many workers there are
    torch.set_num_threads(1)
    return call(item)


@contextmanager
def _processes(workers: int) -> Iterator[Executor]:
    context = get_context("spawn")
    stop = context.RawValue("b", False)  # without a lock, which a killed process may hold
    with ProcessPoolExecutor(workers, context, initializer=_end_with, initargs=(os.getpid(), stop)) as pool:
        try:
            yield pool
        except BaseException:
            stop.value = True  # what is in hand is not waited for
            raise


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that are started meanwhile ignore them: Ctrl-C reaches all of a terminal's, and the one that
    started them ends the others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with(parent: int, stop: Any) -> None:
    """Let this process end when its parent is killed or stops, instead of waiting for work for ever."""

    def watch() -> None:
        while os.getppid() == parent and not stop.value:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("a cluster needs Dask: pip install quantization-tradeoffs[cluster]") from error
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(f"no Dask scheduler answers at {address!r}: {error}") from error
    with client:
        yield client.get_executor(pure=False)
