"""Where electrodes lie on a usual head by their 10-05 names.

Takes mne's montage ``colin27_1005``, whose frame is that of a magnetic resonance image, with the nasion and both ears;
gives places in mne's head space, (x, y, z) in m: the frame in which measured electrodes are read too.
"""

from collections.abc import Mapping
from functools import cache

import mne
import numpy as np
from mne.transforms import apply_trans, get_ras_to_neuromag_trans

MONTAGE = "colin27_1005"
Place = tuple[float, float, float]


@cache
def usual_places_m() -> Mapping[str, Place]:
    """Return the place of every electrode that the montage knows, by name."""
    positions = mne.channels.make_standard_montage(MONTAGE).get_positions()
    to_head = get_ras_to_neuromag_trans(positions["nasion"], positions["lpa"], positions["rpa"])
    return {name: rounded(apply_trans(to_head, point_m)) for name, point_m in positions["ch_pos"].items()}


def rounded(point_m: np.ndarray) -> Place:
    """Return a place to a hundredth of a millimetre."""
    x, y, z = (round(float(value), 5) for value in point_m)
    return x, y, z
