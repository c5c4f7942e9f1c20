"""Draw all that happens in one simulated run, before anything of it is measured.

Takes a level, a subject's traits and the run's random streams; gives activity, body and head motion, as they are behind
the EEG and as they are behind the BOLD: what a control does not link is drawn twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datasets.simulator.bold import NeuralBold, neural_bold
from datasets.simulator.levels import SignalLevel
from datasets.simulator.motion import Motion, draw_motion
from datasets.simulator.physiology import Physiology, draw_physiology
from datasets.simulator.sources import Activity, SubjectTraits, draw_activity

Stream = Callable[[str], np.random.Generator]
"""Gives the generator of one thing to draw in this run, by its name in ``datasets.simulator.study.STREAMS``."""


@dataclass(frozen=True, kw_only=True)
class DrawnRun:
    """One run's courses; ``neural``, ``blood_body`` and ``blood_motion`` are behind the BOLD, the rest behind the EEG.

    ``blood_body`` and ``blood_motion`` are the EEG's own where both sides share them.
    """

    activity: Activity
    body: Physiology
    motion: Motion
    neural: NeuralBold
    blood_body: Physiology
    blood_motion: Motion


def draw_run(level: SignalLevel, traits: SubjectTraits, task: str, duration_s: float, stream: Stream) -> DrawnRun:
    """Draw one run of a task."""
    nuisance = level.nuisance
    activity = draw_activity(task, duration_s, stream("activity"))
    body = draw_physiology(traits, nuisance, duration_s, stream("physiology"))
    motion = draw_motion(nuisance, activity.events, body, duration_s, stream("motion"))
    behind_bold = _activity_behind_bold(level, activity, task, duration_s, stream)
    blood_body, blood_motion = body, motion
    if not nuisance.is_shared:
        blood_body = draw_physiology(traits, nuisance, duration_s, stream("unrelated physiology"))
        events = behind_bold.events
        blood_motion = draw_motion(nuisance, events, blood_body, duration_s, stream("unrelated motion"))
    return DrawnRun(
        activity=activity,
        body=body,
        motion=motion,
        neural=neural_bold(behind_bold, traits, level),
        blood_body=blood_body,
        blood_motion=blood_motion,
    )


def _activity_behind_bold(
    level: SignalLevel, activity: Activity, task: str, duration_s: float, stream: Stream
) -> Activity:
    if level.link == "activity":
        return activity
    events = activity.events if level.link == "events" else None
    return draw_activity(task, duration_s, stream("unrelated activity"), events=events)
