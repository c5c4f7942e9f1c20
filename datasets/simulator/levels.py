"""How strongly a simulated study links EEG and BOLD, and what else moves them: one record per ``--signal``.

Takes nothing; gives ``LEVELS``: three strengths (easy, realistic, hard) and three controls (none, trap, events).
"""

from dataclasses import dataclass, replace

LINKS = ("activity", "nothing", "events")


@dataclass(frozen=True, kw_only=True)
class Nuisance:
    """What body and scanner add to EEG and BOLD.

    Attributes:
        is_shared: the same heart, breath, head motion and blinks reach EEG and BOLD; False gives the BOLD its own.
        pulse_uv: from and to what the ballistocardiogram's peak goes over subjects, at its largest channel.
        gradient_uv, blink_uv, muscle_uv: sizes at the largest channel.
        motion_uv: uV per mm/s of head motion.
        motion_mm: mean distance that brain tissue moves from where it lies on average in the run.
        spikes_per_minute: sudden movements that last about a second.
        arousal_depth: how far arousal moves the log amplitude of a posterior alpha rhythm that no source holds.
        arousal_on_body: how far arousal moves heart, breath, blinks and spikes, 0 to 1.
        arousal_r: correlation of the arousal that moves the BOLD with the one that moves the EEG and the body.
        arousal_share, body_share: shares of the noise's variance in the BOLD that follow arousal, heart and breath.
        transient_percent: the BOLD's start above its mean, from and to what over runs; the EEG starts louder, too.
        warp_mm, distortion_mm: largest shift by the anatomy's nonlinear warp, and of the EPI along y.
    """

    is_shared: bool = True
    pulse_uv: tuple[float, float]
    gradient_uv: float
    blink_uv: float
    muscle_uv: float
    motion_uv: float
    motion_mm: float
    spikes_per_minute: float
    arousal_depth: float = 0.0
    arousal_on_body: float = 0.0
    arousal_r: float = 0.0
    arousal_share: float = 0.0
    body_share: float = 0.15
    transient_percent: tuple[float, float] = (0.0, 0.0)
    warp_mm: float
    distortion_mm: float


@dataclass(frozen=True, kw_only=True)
class SignalLevel:
    """How strongly EEG and BOLD are linked, and how much subjects differ.

    Attributes:
        link: what both sides share: "activity" (all of it), "events" (the stimuli's timing alone) or "nothing".
        visible_share: share of the variance of responsive voxels, drift and motion apart, that follows activity which
            EEG reflects, on average over subjects; ``visible_part`` is that share among the neural variance alone.
        burst_part, phase_part, evoked_part: shares of the visible variance that follow the rate of bursts, the
            strength of phase-amplitude coupling and the responses to stimuli; the rest follows ongoing amplitude.
        neural_percent: standard deviation of the neural signal at a blob's centre, in % of the mean.
        amplitude_depth, burst_depth, phase_depth: how far unit activity moves each of them in the EEG.
        oscillation_uv, background_uv: sizes of a source's rhythm and of the noise around it.
        gain_sd, peak_sd_s: how much regions differ over subjects in size and in haemodynamic peak.
    """

    link: str = "activity"
    visible_share: float
    visible_part: float
    burst_part: float
    phase_part: float
    evoked_part: float
    neural_percent: float
    amplitude_depth: float
    burst_depth: float
    phase_depth: float
    oscillation_uv: float
    background_uv: float
    gain_sd: float
    peak_sd_s: float
    electrode_shift_mm: float
    orientation_sd_deg: float
    nuisance: Nuisance

    def __post_init__(self) -> None:
        if self.link not in LINKS:
            raise ValueError(f"link must be one of {', '.join(LINKS)}, but got {self.link!r}")
        if not 0 < self.visible_share < self.visible_part < 1:
            raise ValueError(f"must hold: 0 < visible_share < visible_part < 1, but got {self}")
        if not 0 < self.amplitude_part <= 1:
            raise ValueError(f"the parts beside ongoing amplitude must leave some of it, but got {self}")

    @property
    def amplitude_part(self) -> float:
        """The share of the visible variance that follows the ongoing amplitude of a rhythm."""
        return 1 - self.burst_part - self.phase_part - self.evoked_part


def _mild() -> Nuisance:
    return Nuisance(
        pulse_uv=(8.0, 15.0),
        gradient_uv=0.7,
        blink_uv=40.0,
        muscle_uv=4.0,
        motion_uv=4.0,
        motion_mm=0.25,
        spikes_per_minute=0.1,
        body_share=0.1,
        warp_mm=3.0,
        distortion_mm=3.0,
    )


def _plain() -> Nuisance:
    return Nuisance(
        pulse_uv=(30.0, 80.0),
        gradient_uv=2.0,
        blink_uv=120.0,
        muscle_uv=12.0,
        motion_uv=15.0,
        motion_mm=0.75,
        spikes_per_minute=0.5,
        body_share=0.2,
        warp_mm=4.5,
        distortion_mm=5.0,
    )


def _trapping() -> Nuisance:
    return replace(
        _plain(),
        motion_mm=1.0,
        spikes_per_minute=1.5,
        arousal_depth=0.7,
        arousal_on_body=0.5,
        arousal_r=0.7,
        arousal_share=0.15,
        body_share=0.3,
        transient_percent=(2.0, 5.0),
    )


def _easy() -> SignalLevel:
    return SignalLevel(
        visible_share=0.20,
        visible_part=0.40,
        burst_part=0.40,
        phase_part=0.05,
        evoked_part=0.06,
        neural_percent=1.5,
        amplitude_depth=0.6,
        burst_depth=1.0,
        phase_depth=1.5,
        oscillation_uv=14.0,
        background_uv=18.0,
        gain_sd=0.3,
        peak_sd_s=0.5,
        electrode_shift_mm=2.0,
        orientation_sd_deg=10.0,
        nuisance=_mild(),
    )


def _realistic() -> SignalLevel:
    return replace(
        _easy(),
        visible_share=0.05,
        visible_part=0.30,
        burst_part=0.20,
        phase_part=0.15,
        evoked_part=0.15,
        neural_percent=0.8,
        amplitude_depth=0.25,
        burst_depth=0.4,
        phase_depth=1.2,
        oscillation_uv=5.5,
        gain_sd=0.6,
        peak_sd_s=0.7,
        electrode_shift_mm=5.0,
        orientation_sd_deg=30.0,
        nuisance=_plain(),
    )


def _hard() -> SignalLevel:
    return replace(
        _realistic(),
        visible_share=0.01,
        visible_part=0.20,
        neural_percent=0.5,
        amplitude_depth=0.19,
        burst_depth=0.3,
        phase_depth=1.0,
        oscillation_uv=3.6,
        gain_sd=1.0,
        peak_sd_s=0.9,
        electrode_shift_mm=10.0,
        orientation_sd_deg=60.0,
    )


def _none() -> SignalLevel:
    return replace(_easy(), link="nothing", nuisance=replace(_mild(), is_shared=False))


def _trap() -> SignalLevel:
    return replace(_easy(), link="nothing", nuisance=_trapping())


def _events() -> SignalLevel:
    apart = replace(_mild(), is_shared=False)
    return replace(_easy(), link="events", burst_part=0.2, evoked_part=0.4, nuisance=apart)


LEVELS = {
    "easy": _easy(),
    "realistic": _realistic(),
    "hard": _hard(),
    "none": _none(),
    "trap": _trap(),
    "events": _events(),
}
"""By the name that ``--signal`` takes; the controls have the easy sizes, where a false finding shows soonest."""
