"""`Location`: the small files of a store, in a local folder or at any fsspec URL, through Zarr's own stores.

What is read is bounded, and stays within the store; `StoreError` says what was found instead of a store of ours.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import stat
from pathlib import Path
from typing import Any

from gymnasium.error import DependencyNotInstalled

from saliency_wrappers.store.partial_files import partial_path, sweep
from saliency_wrappers.store.places import parse_place
from saliency_wrappers.store.syncing import sync_file, sync_folder

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)  # Windows would change line ends


class StoreError(ValueError):
    """The place holds no store, one of a newer version, or damaged data."""


class Location:
    """A folder or URL with small files, each replaced as a whole. It can be pickled, and is opened where it is used."""

    def __init__(self, place: str | os.PathLike[str], *, read_only: bool, durable: bool = False) -> None:
        """Name a place.

        Args:
            place: a folder, or a URL that fsspec knows, such as `memory://name` or `s3://bucket/name`.
            read_only: nothing is written.
            durable: `put` returns when the file is on the disk (`fsync`) and survives a crash of the machine. Local folders only.

        Raises:
            TypeError, ValueError: neither a path nor a URL, see `parse_place`; `durable` with a URL.
        """
        where = parse_place(place)
        self.read_only = read_only
        self.folder: Path | None = where if isinstance(where, Path) else None
        """The local folder. None for a URL."""
        self.name = str(where)
        self.durable = durable
        if durable and self.folder is None:
            raise ValueError(
                f"Expected a local folder for durable=True, got the URL {self.name}: fsync needs a file. What a URL's service has "
                "acknowledged is as safe as the service makes it; leave durable out."
            )
        self._opened: Any = None
        self._inside: set[str] = set()

    def __str__(self) -> str:
        return self.name

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    @property
    def in_this_process_only(self) -> bool:
        """Whether another process would look for it in vain."""
        return self.name.startswith("memory://")

    def get(self, key: str, limit: int) -> bytes | None:
        """Return the content of a file; None when there is none.

        Raises:
            StoreError: more than `limit` bytes, a file that lies elsewhere, by a link, or no regular file.
            OSError: it cannot be read.
        """
        self._check(key)
        content = self._get_remote(key, limit) if self.folder is None else _read(f"{self.name}/{key}", limit)
        if content is not None and len(content) > limit:
            raise StoreError(f"Expected at most {limit} bytes in {key} of the store {self}, got more.")
        return content

    def _get_remote(self, key: str, limit: int) -> bytes | None:
        store = self._store
        from zarr.abc.store import RangeByteRequest
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        found = sync(store.get(key, default_buffer_prototype(), RangeByteRequest(0, limit + 1)))
        return None if found is None else found.to_bytes()

    def exists(self, key: str) -> bool:
        """Whether a file, or anything else, is there."""
        self._check(key)
        if self.folder is not None:
            return os.path.lexists(f"{self.name}/{key}")
        return self._get_remote(key, 0) is not None

    def put(self, key: str, content: bytes) -> None:
        """Write a file, or replace it: whoever reads sees the old content or the new, nothing between.

        Raises:
            OSError: it cannot be written.
            StoreError: it would lie elsewhere, by a link.
        """
        self._check_name(key)
        if self.read_only:
            raise ValueError(f"The store {self} was opened to be read, {key} cannot be written.")
        if self.folder is not None:
            self._put_file(key, content)
            return
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import sync

        sync(self._store.set(key, default_buffer_prototype().buffer.from_bytes(content)))

    def names(self, key: str = "") -> list[str]:
        """Return the names of the files and folders right under a folder, sorted; none where there is no folder."""
        if key:
            self._check(key)
        if self.folder is not None:
            try:
                found = os.listdir(self.folder / key)  # noqa: PTH208 - names, without a Path for each
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted(name for name in found if _KEY.fullmatch(name))
        from zarr.core.sync import collect_aiterator

        try:
            found = collect_aiterator(self._store.list_dir(key))
        except FileNotFoundError:
            return []
        return sorted(name for name in found if _KEY.fullmatch(name))

    def sweep(self, key: str = "") -> None:
        """Remove partial files of killed writers right under a folder; those of live writers stay."""
        if self.folder is not None and not self.read_only:
            sweep(f"{self.name}/{key}" if key else self.name)

    def size(self) -> int:
        """Return the size in bytes; 0 where it is not known."""
        if self.folder is not None:
            return sum(file.lstat().st_size for file in self.folder.rglob("*") if file.is_file())
        from zarr.core.sync import sync

        return int(sync(self._store.getsize_prefix("")))

    @property
    def _store(self) -> Any:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def require_zarr(self) -> None:
        """Raise `DependencyNotInstalled` when Zarr is not installed."""
        try:
            importlib.import_module("zarr.storage")
        except ImportError as error:
            raise DependencyNotInstalled('Stores need Zarr: pip install "saliency_wrappers[store]".') from error

    def _open(self) -> Any:
        self.require_zarr()
        from zarr.storage import FsspecStore

        try:
            return FsspecStore.from_url(self.name, read_only=self.read_only)
        except ImportError as error:
            raise DependencyNotInstalled(f"The store {self} needs fsspec and its package for such URLs: {error}") from error
        except ValueError as error:
            raise ValueError(f"Expected the path of a store, or a URL that fsspec knows, got {self.name!r}: {error}") from error

    def _put_file(self, key: str, content: bytes) -> None:
        """As Zarr's own store does it. Four calls of the system: at each the agent's thread and this one change places."""
        folder, _, name = f"{self.name}/{key}".rpartition("/")
        if folder not in self._inside:
            self._enter(folder)
        partial = partial_path(folder, name)
        try:
            _write(partial, content, self.durable)
            os.replace(partial, f"{folder}/{name}")  # noqa: PTH105 - a Path takes longer to make than the call
            if self.durable:
                sync_folder(folder)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise

    def _enter(self, folder: str) -> None:
        """Have a folder within the store; one that is made here is no link, and need not be looked at."""
        if folder == self.name:
            _make_root(Path(folder), self.durable)
        else:
            above, _, _ = folder.rpartition("/")
            if above not in self._inside:
                self._enter(above)
            try:
                Path(folder).mkdir()
                if self.durable:
                    sync_folder(above)
            except FileExistsError:
                self._check(folder[len(self.name) + 1 :])
                sweep(folder)
        self._inside.add(folder)

    def _check(self, key: str) -> None:
        """Refuse a key that leads out of the store: stored data is untrusted."""
        self._check_name(key)
        if self.folder is not None and _leads_out(self.name, key):
            raise StoreError(f"Expected {key} within the store {self}, but a link leads out of it.")

    def _check_name(self, key: str) -> None:
        if not _KEY.fullmatch(key):
            raise StoreError(f"Expected a plain name in the store {self}, got {key!r}.")


def _leads_out(root: str, key: str) -> bool:
    """Whether a link beneath a folder leads out of it. Without links two calls of the system say so."""
    path = root
    for part in key.split("/"):
        path = f"{path}/{part}"
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                break
        except OSError:  # nothing there
            return False
    else:
        return False
    real = os.path.realpath(root)
    return not os.path.realpath(f"{root}/{key}").startswith(real if real.endswith(os.sep) else real + os.sep)


def _make_root(folder: Path, durable: bool) -> None:
    missing = [one for one in (folder, *folder.parents) if not one.exists()] if durable else []
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(str(made.parent))


def _write(path: str, content: bytes, durable: bool) -> None:
    file = os.open(path, _NEW_FILE, 0o666)
    try:
        written = os.write(file, content)
        while written < len(content):
            written += os.write(file, memoryview(content)[written:])
        if durable:
            sync_file(file)
    finally:
        os.close(file)


def _read(path: str, limit: int) -> bytes | None:
    """Read at most one byte more than `limit` of a regular file; None when there is none. A FIFO or device is never waited for."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - at every chunk
            raise StoreError(f"Expected a regular file, got something else: {path}.")
        file = os.open(path, _READ)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"Expected a regular file, got a link to itself: {path}.") from error
        raise
    with open(file, "rb") as opened:  # noqa: PTH123 - a descriptor
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise StoreError(f"Expected a regular file, got something else: {path}.")
        return opened.read(limit + 1)
