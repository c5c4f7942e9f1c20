"""One simulated run and subject small enough for tests, without the simulator: known signals, coarse images."""

import numpy as np

from datasets.oddball import CHANNELS
from datasets.recording import Events
from datasets.simulator.layout import SimulatedRun, SimulatedSubject

SHAPE, VOLUMES, TR_S, RATE_HZ = (6, 7, 5), 12, 2.0, 1000.0


def simulated_subject(number: int = 1) -> SimulatedSubject:
    """Return a subject with a T1 of noise."""
    t1 = np.random.default_rng(number).integers(0, 1000, (8, 9, 7)).astype(np.int16)
    return SimulatedSubject(number=number, t1=t1, t1_affine=np.diag([2.0, 2.0, 2.0, 1.0]))


def simulated_run(
    subject: int = 1, task: int = 1, run: int = 1, *, volumes: int = VOLUMES, tr_s: float = TR_S
) -> SimulatedRun:
    """Return a run whose channels are slow sines of known size and frequency."""
    rng = np.random.default_rng([subject, task, run])
    time_s = np.arange(round(volumes * tr_s * RATE_HZ)) / RATE_HZ
    rows = np.stack([(10 + row) * np.sin(2 * np.pi * (1 + row / 4) * time_s + row) for row in range(len(CHANNELS) + 3)])
    onset_s = np.arange(4.0, volumes * tr_s - 2, 2.5)
    kind = tuple("target" if number % 3 == 0 else "standard" for number in range(len(onset_s)))
    return SimulatedRun(
        subject=subject,
        task=task,
        run=run,
        task_name={1: "auditory", 2: "visual"}[task],
        eeg_uv=rows[: len(CHANNELS)].astype(np.float32),
        ecg=rows[len(CHANNELS)].astype(np.float32),
        eog=rows[len(CHANNELS) + 1 :].astype(np.float32),
        events=Events(
            onset_s=onset_s,
            duration_s=np.full(len(onset_s), 0.2),
            kind=kind,
            response_time_s=np.where(np.array(kind) == "target", 0.4, np.nan),
        ),
        marker_samples=np.round(onset_s * RATE_HZ).astype(np.int64),
        bold=rng.integers(100, 1000, (*SHAPE, volumes)).astype(np.int16),
        epi_affine=np.diag([3.0, 3.0, 4.0, 1.0]),
        slice_times_s=np.arange(SHAPE[2]) * tr_s / SHAPE[2],
        repetition_time_s=tr_s,
        rate_hz=RATE_HZ,
    )
