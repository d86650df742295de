"""Warm kernels for anything that starts kernels through Jupyter: runs, papermill, nbclient, JupyterLab."""

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Bool

from convlib.reports.warm import ForkedProcess, WarmError, WarmParent, open_parent

POLL_SECONDS, KILL_SECONDS = 0.005, 5
logger = logging.getLogger(__name__)


class WarmProvisioner(LocalProvisioner):  # type: ignore[misc, unused-ignore]
    """Forks kernels from this process's warm parent; where that can't be, starts them as usual, and says so once."""

    own_code = Bool(False, help="Whether convlib itself is imported before the fork, too.")
    warm_parent: WarmParent | None = None
    _told = False

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Fork a kernel with the arguments of a command."""
        try:
            process = await self._fork(cmd, **kwargs)
        except WarmError as error:
            self.warm_parent = None
            if not WarmProvisioner._told:
                logger.warning("Kernels start cold: there is no warm process (%s).", error)
                WarmProvisioner._told = True
            return await super().launch_kernel(cmd, **kwargs)
        self.process: ForkedProcess | None = process  # type: ignore[assignment]  # it does what a Popen does
        self.pid = self.pgid = process.pid
        self.cwd = kwargs.get("cwd") or Path.cwd()
        return self.connection_info

    async def _fork(self, cmd: list[str], **kwargs: Any) -> ForkedProcess:
        # Started here, asked elsewhere: its first answer comes after its imports, and a server has other clients.
        environment = {name: value for name, value in kwargs["env"].items() if name == "PYTHONHASHSEED"}
        self.warm_parent = open_parent(own_code=self.own_code, environment=environment)
        return await asyncio.to_thread(
            self.warm_parent.fork,
            cmd[cmd.index("-f") :],
            folder=str(kwargs.get("cwd") or Path.cwd()),
            environment=kwargs["env"],
        )

    async def kill(self, restart: bool = False) -> None:
        """End it at once, and wait for that: the manager looks only every tenth of a second."""
        await super().kill(restart=restart)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                while self.process and await self.poll() is None:
                    await asyncio.sleep(POLL_SECONDS)
