"""What the data dictates about a model's input and output, apart from what a trial varies."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelShape:
    """Sizes of a window and of the volume that it must predict.

    Attributes:
        num_channels: EEG channels.
        num_samples: EEG samples of one channel in a window.
        num_volumes: volumes that the window's EEG spans; divides num_samples.
        rate_hz: EEG samples per second.
        grid_shape: the grid of which the mask is a part.
        voxel_indices: grid index of every voxel in the mask, int64, shape (V, 3).
        basis: patterns that a low-rank output combines, float32, shape (K, V); None where all voxels are predicted.
        channel_positions: where the electrodes are, in m, float32, shape (C, 3), zero where unknown; None where none
            is known.
    """

    num_channels: int
    num_samples: int
    num_volumes: int
    rate_hz: float
    grid_shape: tuple[int, int, int]
    voxel_indices: Tensor
    basis: Tensor | None
    channel_positions: Tensor | None = None

    @property
    def num_voxels(self) -> int:
        """Voxels in the mask."""
        return len(self.voxel_indices)

    @property
    def samples_per_volume(self) -> int:
        """EEG samples of one channel in a volume's time."""
        return self.num_samples // self.num_volumes
