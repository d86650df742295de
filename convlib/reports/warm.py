"""A warm process that kernels are forked from: what notebooks import is imported once."""

import atexit
import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipykernel.kernelapp import IPKernelApp

import convlib

INLINE = "matplotlib_inline.backend_inline"
#: What notebooks of this library import from others, and what their imports load later. DuckDB and Polars start threads
#: at their first use, so they are imported and not used: threads do not outlive a fork.
PACKAGES = (
    "pandas", "matplotlib.pyplot", "matplotlib.backends.backend_agg", "seaborn", "duckdb", "scipy.stats",
    "scipy.optimize", "scipy.special", "statsmodels.api", "tea_tasting", "pyarrow.parquet", "pyarrow.dataset", "numba",
    INLINE, "ipykernel.debugger", "IPython.core.debugger", "IPython.core.completerlib", "IPython.extensions.storemagic",
)  # fmt: skip
START_SECONDS = 120.0
LARGEST_MESSAGE = 1 << 20
PR_SET_PDEATHSIG = 1


class WarmError(Exception):
    """The warm process gives no kernel; a cold one has to do."""


class ForkedProcess:
    """A kernel that another process forked, as `subprocess.Popen` shows one that this process started."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, handle: int) -> None:
        self.pid = pid
        self._handle = handle

    def poll(self) -> int | None:
        """Tell whether it ended: None while it runs. Its exit code is its parent's to know."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until it ends."""
        return self._look(timeout)

    def send_signal(self, number: int) -> None:
        """Send it a signal; to a process that has ended, none."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.Signals(number))

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def _look(self, timeout: float | None) -> int | None:
        poller = select.poll()
        poller.register(self._handle, select.POLLIN)
        return 0 if poller.poll(None if timeout is None else timeout * 1000) else None

    def __del__(self) -> None:
        os.close(self._handle)


class WarmParent:
    """The process that kernels are forked from. It ends when the process that started it does, and its kernels with it.

    Args:
        own_code: Whether it also imports convlib. Only for a life in which the code does not change.
        environment: What Python itself has to know at its start, such as PYTHONHASHSEED.
    """

    def __init__(self, *, own_code: bool, environment: Mapping[str, str] | None = None) -> None:
        if not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open"):
            raise WarmError("this system can't fork kernels safely")
        self.forks = 0
        self._lock = threading.Lock()  # each answer is for the request before it
        self._connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", __name__, str(other.fileno()), *(["--own-code"] if own_code else [])]
        try:
            self._process = subprocess.Popen(  # noqa: S603  # this Python and this module
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                start_new_session=True,  # the terminal's Ctrl+C is not for it
                env={**os.environ, **(environment or {})},
            )
        except OSError as error:
            raise WarmError(f"it could not be started: {error}") from None
        finally:
            other.close()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Say whether it can still fork."""
        return self._process.poll() is None

    def fork(
        self, arguments: Sequence[str], *, folder: str, environment: Mapping[str, str], streams: Sequence[int] = ()
    ) -> ForkedProcess:
        """Fork a kernel.

        Args:
            arguments: The kernel's own, such as `-f` and its connection file.
            folder: The folder that it begins in.
            environment: All its environment variables.
            streams: Its standard input, output and errors; empty for this process's own, without input.

        Raises:
            WarmError: There is no kernel; the reason is named, and this process does not serve any more.
        """
        request = json.dumps([list(arguments), folder, dict(environment)]).encode()
        try:
            with self._lock, Path(os.devnull).open() as nothing:
                self._connection.settimeout(START_SECONDS)
                socket.send_fds(self._connection, [request], list(streams) or [nothing.fileno(), 1, 2])
                answer, handles, _, _ = socket.recv_fds(self._connection, LARGEST_MESSAGE, 1)
        except OSError as error:
            self.close()
            raise WarmError(f"{type(error).__name__}: {error}") from None
        if not handles:
            self.close()
            raise WarmError("it has ended")
        self.forks += 1
        return ForkedProcess(int(answer), handles[0])

    def close(self) -> None:
        """End it and all of its kernels."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


_opening = threading.Lock()
_parents: dict[tuple[int, bool], WarmParent] = {}


def open_parent(*, own_code: bool, environment: Mapping[str, str] | None = None) -> WarmParent:
    """Give this process's warm parent, which is started at the first call.

    Raises:
        WarmError: There is none here, or it ended before it had forked any kernel.
    """
    key = (os.getpid(), own_code)
    with _opening:
        parent = _parents.get(key)
        if parent is None or (parent.forks and not parent.is_alive()):
            parent = _parents[key] = WarmParent(own_code=own_code, environment=environment)
            atexit.register(parent.close)
        elif not parent.is_alive():
            raise WarmError("it has ended before its first kernel")
    return parent


def serve(connection: socket.socket, *, own_code: bool) -> None:
    """Fork a kernel for each request, until the other side is gone."""
    parent = os.getpid()
    while True:
        request, streams, _, _ = socket.recv_fds(connection, LARGEST_MESSAGE, 3)
        if not request:
            return
        _reap()
        pid = os.fork()
        if pid == 0:
            connection.close()
            if not own_code:
                _forget_own_code()
            become_kernel(*json.loads(request), streams=streams, parent=parent)
        os.setpgid(pid, pid)
        # Opened before the process is reaped, so that its number can't be another's by now.
        handle = os.pidfd_open(pid)
        socket.send_fds(connection, [str(pid).encode()], [handle])
        for descriptor in (handle, *streams):
            os.close(descriptor)


def _forget_own_code() -> None:
    """Let a kernel import convlib as it stands when the kernel starts, not as it stood when this process did."""
    for name in [name for name in sys.modules if name.split(".")[0] == "convlib"]:
        del sys.modules[name]


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def become_kernel(
    arguments: Sequence[str], folder: str, environment: Mapping[str, str], *, streams: Sequence[int], parent: int
) -> None:
    """Turn a process that was just forked into a kernel like a cold one; it never returns."""
    status = 1
    try:
        follow_parent(parent)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environ.clear()
        os.environ.update({**environment, "JPY_PARENT_PID": str(parent)})
        os.chdir(folder)
        # Whoever is forked draws what their siblings draw, unless the state is made anew.
        random.seed()
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        run_kernel([*arguments, f"--IPKernelApp.parent_handle={parent}"])
        status = 0
    finally:
        # What a kernel leaves at its end is its own; the parent's clean-up is not to be done in each child.
        os._exit(status)


def run_kernel(arguments: Sequence[str]) -> None:
    """Be a kernel in this process until it is asked to end."""
    sys.argv = [sys.argv[0], *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    app: Any = IPKernelApp.instance()
    app.initialize(list(arguments))
    if INLINE in sys.modules:
        # Its import connects figures with the shell, of which there was none yet.
        sys.modules[INLINE]._enable_matplotlib_integration()
    app.start()


def follow_parent(parent: int) -> None:
    """End this process at once when its parent ends, even one that is killed (Linux; elsewhere ipykernel looks)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def preload(*, own_code: bool) -> None:
    """Import what notebooks import, and draw once, so that fonts are read."""
    modules = [*PACKAGES]
    if own_code:
        modules += [f"convlib.{name}" for name in (*convlib._HOMES, "figures") if not name.startswith("reports")]
    for name in modules:
        if importlib.util.find_spec(name.split(".")[0]):
            importlib.import_module(name)
    draw_once()
    if own_code:
        match_nothing()
    gc.collect()
    gc.freeze()  # the children's collections leave these pages shared


def draw_once() -> None:
    """Draw a small figure without the shell's backend: it reads the fonts and fills the caches."""
    figure: Any = importlib.import_module("matplotlib.figure").Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], label="line")
    axes.set_title("Title", weight="bold")
    axes.legend()
    with Path(os.devnull).open("wb") as nowhere:
        figure.savefig(nowhere, format="png", bbox_inches="tight")


def match_nothing() -> None:
    """Load the compiled code that funnels are counted with."""
    numpy: Any = importlib.import_module("numpy")
    rows = numpy.zeros(0, dtype=numpy.int64)
    importlib.import_module("convlib.kernels").match_funnel(
        numpy.zeros(1, dtype=numpy.int64), rows, rows, rows, rows.astype(bool), 1, 1
    )


def main(arguments: Sequence[str]) -> None:
    """Be a cold kernel that ends with its parent (`-f FILE`), or the warm process (a socket's number)."""
    if sys.path[0] == "" or Path(sys.path[0]) == Path.cwd():
        del sys.path[0]  # as ipykernel's own launcher does: a folder's files must not stand for packages
    if arguments[0] == "-f":
        follow_parent(int(os.environ.get("JPY_PARENT_PID") or os.getppid()))
        run_kernel(arguments)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("MPLBACKEND", f"module://{INLINE}")
    own_code = "--own-code" in arguments
    with socket.socket(fileno=int(arguments[0])) as connection:
        preload(own_code=own_code)
        serve(connection, own_code=own_code)


if __name__ == "__main__":
    main(sys.argv[1:])
