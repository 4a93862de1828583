"""Where tasks run: in this process, or through joblib in others, on this machine or a cluster (`run`).

`Shared` is what all tasks of a run need, the agent above all: it is unpacked once in each worker. Workers of this machine end when the
process that started them does.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeVar, get_args

import torch
from gymnasium.error import DependencyNotInstalled

Backend = Literal["loky", "dask", "ray"]
"""`"loky"`: processes of this machine. `"dask"`: the workers of a `dask.distributed` cluster. `"ray"`: those of a Ray cluster."""

T = TypeVar("T")

Task = Callable[[], T]
"""Can be pickled, and so can what it returns."""


class Shared(Generic[T]):
    """An object shared by all tasks of a run: pickled once, and used by one task of a worker at a time."""

    def __init__(self, content: T) -> None:
        self.content = content
        self.lock = threading.Lock()
        self._packed: tuple[str, bytes] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._packed is None:
            import cloudpickle

            packed: bytes = cloudpickle.dumps(self.content)
            self._packed = (hashlib.sha256(packed).hexdigest(), packed)
        return _unpacked, self._packed


_held: dict[str, Shared[Any]] = {}


def _unpacked(digest: str, packed: bytes) -> Shared[Any]:
    if digest not in _held:
        import cloudpickle

        _held.clear()
        _held[digest] = Shared(cloudpickle.loads(packed))
    return _held[digest]


class WorkerDiedError(RuntimeError):
    """A worker process died while it computed. What was finished is in the store."""


def run(tasks: Sequence[Task[T]], backend: Backend | None, n_jobs: int, address: Any = None) -> Generator[T]:
    """Run tasks in any order.

    Args:
        tasks: what to run.
        backend: where. None: in this process, one after another.
        n_jobs: how many at a time; -1: as many as there are processors, or workers of a cluster.
        address: of a Dask scheduler, or a `dask.distributed.Client`. None: Dask's own default, or the cluster Ray is connected to.

    Yields:
        What the tasks return, as they finish.

    Raises:
        ValueError: no such backend.
        DependencyNotInstalled: its package is not installed.
        WorkerDiedError: a worker died, and no other could take its place.
    """
    if backend is None:
        yield from (task() for task in tasks)
        return
    if backend not in get_args(Backend):
        raise ValueError(f"Expected a backend among {(None, *get_args(Backend))}, got {backend!r}.")
    with _connected(backend, address) as settings, _deaths_told():
        joblib: Any = importlib.import_module("joblib")
        with joblib.parallel_config(backend=backend, n_jobs=n_jobs, **settings):
            calls = [joblib.delayed(_in_one_thread)(task) for task in tasks]
            if backend != "ray":
                # max_nbytes: no arrays in shared memory, where a killed process would leave them
                watched: dict[str, Any] = {"initializer": end_with, "initargs": (os.getpid(),)} if backend == "loky" else {}
                parallel = joblib.Parallel(return_as="generator_unordered", pre_dispatch="2*n_jobs", max_nbytes=None, **watched)
                yield from parallel(calls)
                return
            group = 4 * joblib.effective_n_jobs(n_jobs)  # Ray's backend returns nothing before all is done
            for first in range(0, len(calls), group):
                yield from joblib.Parallel()(calls[first : first + group])


def _in_one_thread(task: Task[T]) -> T:
    """Run a task with one PyTorch thread, since several workers share the processors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return task()
    finally:
        torch.set_num_threads(threads)


def end_with(owner: int) -> None:
    """End this worker within a second after its parent process ends.

    Files of a store are replaced as a whole: none is left half written. Windows does not report a parent's end; there the worker stays
    until it has been idle for minutes.

    Args:
        owner: the number of the parent process.
    """
    if os.name == "nt":
        return

    def watch() -> None:
        while os.getppid() == owner:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="saliency-parent", daemon=True).start()


@contextmanager
def _connected(backend: Backend, address: Any) -> Generator[dict[str, Any]]:
    """Return joblib's options for a backend; clients that are created here are closed after the block."""
    try:
        if backend == "loky":
            importlib.import_module("joblib")
            yield {"inner_max_num_threads": 1}
        elif backend == "dask":
            with _dask_client(address) as client:
                yield {"client": client, "wait_for_workers_timeout": 30} if client is not None else {}
        else:
            _register_ray()
            yield {}
    except ImportError as error:
        extra = {"loky": "store", "dask": "dask", "ray": "ray"}[backend]
        raise DependencyNotInstalled(f'The backend {backend!r} is not installed: pip install "saliency_wrappers[{extra}]".') from error


@contextmanager
def _dask_client(address: Any) -> Generator[Any]:
    from distributed import Client

    if isinstance(address, Client):
        yield address
        return
    with Client(address) as client:
        yield client


def _register_ray() -> None:
    import ray
    from ray.util.joblib import register_ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False)
    register_ray()


@contextmanager
def _deaths_told() -> Generator[None]:
    """Translate each backend's exception for a dead worker into `WorkerDiedError`."""
    try:
        yield
    except Exception as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        if names & {"TerminatedWorkerError", "BrokenProcessPool", "KilledWorker", "RayActorError", "WorkerCrashedError"}:
            raise WorkerDiedError(
                "A worker died while it computed (killed, or out of memory?). What was finished is in the store: run the same again, and "
                f"only the rest is computed. ({type(error).__name__}: {error})"
            ) from error
        raise
