"""How the workers of one fold job find each other: through a file where Ray stays on loopback, else as Ray Train does.

Takes the Ray that runs; gives Ray Train's settings of torch.  Torch's own meeting point is a server, which listens on
every interface of the machine and asks nobody for a password.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.backend import BackendConfig
from ray.train.torch import TorchConfig

# Ray Train's own: how it makes a process group, all but where its workers meet.
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

LOOPBACK = "127.0.0.1"


def torch_config() -> TorchConfig:
    """Return the settings for the Ray that this process belongs to."""
    return FileConfig() if ray.util.get_node_ip_address() == LOOPBACK else TorchConfig()


class FileBackend(_TorchBackend):
    """A process group whose workers, all on one machine, meet in a file."""

    folder = ""

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ANN401 - Ray Train's own
        """Let every worker join the group, in a new folder that is closed to other users."""
        assert isinstance(backend_config, FileConfig)
        self.folder = tempfile.mkdtemp(prefix="eeg2fmri-workers-")
        worker_group.execute(_set_torch_distributed_env_vars)
        joining = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend="nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo",
                world_rank=rank,
                world_size=len(worker_group),
                init_method=(Path(self.folder) / "workers").as_uri(),
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(joining)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:  # noqa: ANN401 - Ray Train's own
        """Let every worker leave, and remove the folder."""
        assert isinstance(backend_config, FileConfig)
        super().on_shutdown(worker_group, backend_config)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class FileConfig(TorchConfig):
    """Ray Train's settings of torch with ``FileBackend``."""

    @property
    def backend_cls(self) -> type[FileBackend]:
        """What makes the process group."""
        return FileBackend
