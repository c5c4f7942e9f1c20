"""Fixed configurations that a study can begin with, beside what it draws from a search space.

``published`` follows what is known of the models published for ds000116 (docs/your-own-search-space.md says what is
not, and what is different here): 34 channels, windows of 30 s, one linear embedding shared by all channels, all voxels
as output, Adam at 1e-4, plateaus, batches of 32.  Their 250 Hz and 200 epochs are no part of a configuration: give
``--rate 250 --max-epochs 200``.
"""

from typing import Any

_PUBLISHED_TRAINING: dict[str, Any] = {
    "output_rank": 0,
    "loss": "mse",
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "schedule": "plateau",
    "warm_up_share": 0.0,
    "weight_decay": 0.0,
    "batch_size": 32,
    "gradient_norm": 0.0,
    "weight_average": 0.0,
    "augmentation": "none",
    "order": "shuffled",
    "montage": "recorded",
    "lags": "free",
    "level": "window",
}

# Channels as recorded, every time for itself, every window measured by itself.
_PUBLISHED_READING: dict[str, Any] = {"montage": "recorded", "lags": "free", "level": "window"}

_PUBLISHED_TRUNK: dict[str, Any] = {
    # Three hidden layers of 1000 and one of 100 before the voxels; the share of dropout is torch's own.
    "width": 1000,
    "num_layers": 2,
    "bottleneck": 100,
    "norm": "batch",
    "activation": "relu",
    "dropout": 0.5,
    "stochastic_depth": 0.0,
}

PRESETS: dict[str, dict[str, tuple[dict[str, Any], ...]]] = {
    "published": {
        "fully_connected": (
            # At 250 Hz the shared embedding takes 7500 samples of a channel to 100 numbers.
            {
                **_PUBLISHED_TRAINING,
                **_PUBLISHED_READING,
                **_PUBLISHED_TRUNK,
                "embedding": "linear",
                "learned_reading": True,
                "embedding_width": 100,
            },
        ),
        "convolutional": (
            # Filters of 25 samples at 250 Hz, 32 of them in every layer, the same for every channel.
            {
                **_PUBLISHED_TRAINING,
                **_PUBLISHED_READING,
                **_PUBLISHED_TRUNK,
                "mixing": "shared",
                "channel_width": 100,
                "num_filters": 32,
                "kernel_seconds": 0.1,
                "num_convolutions": 4,
                "pooling": "mean",
            },
        ),
        "transformer": (
            # The sizes of torch's own transformer, on 34 channel tokens and 53 slices in order.
            {
                **_PUBLISHED_TRAINING,
                **_PUBLISHED_READING,
                "embedding": "linear",
                "learned_reading": True,
                "tokens": "channels",
                "encoding": "learned",
                "width": 512,
                "num_heads": 8,
                "num_encoder_layers": 6,
                "num_decoder_layers": 6,
                "feedforward_ratio": 4,
                "decoding": "autoregressive",
                "norm": "layer",
                "activation": "relu",
                "dropout": 0.1,
                "stochastic_depth": 0.0,
            },
        ),
    },
}
"""From a preset's name and an architecture to the configurations of a study's first trials."""
