"""What comes before and after a reading of EEG: montage, lags, level; against known answers."""

import dataclasses

import numpy as np
import pytest
import torch
from model_shapes import CHANNELS, RATE_HZ, VOLUMES, eeg, shape
from scipy.stats import gamma

from platform.models import ARCHITECTURES
from platform.models.embedding import EMBEDDINGS, ReadingConfig, fixed_reading, read_eeg
from platform.models.reading import (
    LAGS,
    LEVELS,
    MONTAGES,
    NEIGHBOURS,
    PEAKS_SECONDS,
    HaemodynamicLags,
    LaplacianMontage,
    laplacian,
    sine_cosine_pairs,
)

HEAD_M = 0.09


def reading_of(**choices):
    """Return a reading that is learned but for what is chosen otherwise."""
    return read_eeg(ReadingConfig(**{"learned_reading": True, **choices}), shape(low_rank=True))


def ring(num_channels: int) -> torch.Tensor:
    """Return places on a circle around the head, (C, 3)."""
    angle_C = 2 * torch.pi * torch.arange(num_channels) / num_channels
    return HEAD_M * torch.stack([torch.cos(angle_C), torch.sin(angle_C), 0 * angle_C], dim=1)


def test_what_all_channels_share_is_gone_and_what_one_has_alone_stays():
    montage = laplacian(12, ring(12))
    assert torch.allclose(montage @ torch.ones(12), torch.zeros(12), atol=1e-6)
    assert torch.equal(montage.diagonal(), torch.ones(12))


def test_neighbours_are_the_nearest_channels():
    montage = laplacian(12, ring(12))
    for channel in range(12):
        near = {(channel + step) % 12 for step in (-2, -1, 1, 2)}
        assert set(torch.nonzero(montage[channel] < 0).flatten().tolist()) == near
        assert montage[channel].min() == pytest.approx(-1 / NEIGHBOURS)


def test_a_channel_whose_place_is_unknown_is_left_alone_and_is_nobodys_neighbour():
    places = ring(8)
    places[3] = 0
    montage = laplacian(8, places)
    assert torch.equal(montage[3], torch.eye(8)[3])
    assert torch.equal(montage[:, 3], torch.eye(8)[3])


@pytest.mark.parametrize("places", [None, torch.zeros(5, 3), torch.cat([ring(1), torch.zeros(4, 3)])])
def test_without_two_places_channels_stay_as_recorded(places):
    assert torch.equal(laplacian(5, places), torch.eye(5))


def test_fewer_channels_than_neighbours_have_what_neighbours_there_are():
    assert torch.allclose(laplacian(3, ring(3)), 1.5 * torch.eye(3) - 0.5)


def test_lags_start_as_responses_that_peak_when_they_should():
    lags = HaemodynamicLags(shape(low_rank=True)).responses_PN.detach()
    assert torch.allclose(lags.sum(dim=1), torch.ones(len(PEAKS_SECONDS)))
    ago_s = 2.0 * torch.arange(VOLUMES, 0, -1)
    for response_N, peak_s in zip(lags, PEAKS_SECONDS, strict=True):
        assert ago_s[response_N.argmax()] == pytest.approx(peak_s, abs=1.01)
        density = gamma.pdf(ago_s, peak_s + 1)
        assert response_N.numpy() == pytest.approx(density / density.sum(), rel=1e-4)


def test_power_that_comes_and_goes_is_weighed_by_the_response():
    """A burst in one volume's time moves the reading by that time's weight."""
    read = reading_of(embedding="log_power", montage="recorded", lags="haemodynamic", level="window")
    window = eeg()
    louder = window.clone()
    at, samples = 10, 2 * RATE_HZ
    louder[:, :, at * samples : (at + 1) * samples] *= torch.e
    change = (read(louder) - read(window)).detach()
    expected = 2 * read.lags.responses_PN[:, at].detach()
    assert torch.allclose(change, expected[:, None].expand_as(change), atol=2e-3)


def test_a_recordings_level_and_gain_do_not_matter_to_a_reading_of_its_own_level():
    for level, is_same in (("recording", True), ("window", False)):
        torch.manual_seed(0)
        read = reading_of(embedding="log_power", montage="recorded", lags="free", level=level).eval()
        windows = eeg(num_windows=8)
        gains = torch.tensor([0.5, 1.0, 2.0, 4.0])[:, None]
        assert torch.allclose(read(windows), read(gains * windows), atol=1e-2) == is_same


def test_samples_have_neither_lags_nor_level():
    read = reading_of(embedding="linear", montage="recorded", lags="haemodynamic", level="recording")
    window = eeg()
    assert torch.equal(read(window), window.unflatten(2, (VOLUMES, -1)))


@pytest.mark.parametrize("montage", MONTAGES)
@pytest.mark.parametrize("lags", LAGS)
@pytest.mark.parametrize("level", LEVELS)
def test_every_reading_has_the_size_that_it_says(montage, lags, level):
    for embedding in EMBEDDINGS:
        read = reading_of(embedding=embedding, montage=montage, lags=lags, level=level)
        assert read(eeg()).shape[1:] == (CHANNELS, read.num_lags, read.num_features)


def test_the_montage_starts_with_the_places_and_may_be_learned():
    placed = dataclasses.replace(shape(low_rank=True), channel_positions=ring(CHANNELS))
    montage = LaplacianMontage(placed)
    assert torch.equal(montage.mixing_CC, laplacian(CHANNELS, ring(CHANNELS)))
    montage(eeg()).square().sum().backward()
    assert montage.mixing_CC.grad is not None and montage.mixing_CC.grad.abs().max() > 0


def test_waves_are_pairs_of_one_frequency_each_a_quarter_apart():
    waves_FT = sine_cosine_pairs(6, 100, 250.0, 5.0, 45.0).numpy()
    spectrum = np.abs(np.fft.rfft(waves_FT, 4000, axis=1))
    peaks_hz = np.fft.rfftfreq(4000, 1 / 250.0)[spectrum.argmax(axis=1)]
    assert peaks_hz[:6] == pytest.approx(np.geomspace(5, 45, 6), abs=1.0)
    assert peaks_hz[6:] == pytest.approx(peaks_hz[:6], abs=1.0)
    assert np.abs(np.sum(waves_FT[:6] * waves_FT[6:], axis=1)).max() < 1e-3


def test_a_reading_that_is_not_learned_stays_as_it_starts_but_for_its_level():
    read = reading_of(
        embedding="log_power", montage="laplacian", lags="haemodynamic", level="recording", learned_reading=False
    )
    assert {name for name, parameter in read.named_parameters() if parameter.requires_grad} == {
        "level.norm.weight",
        "level.norm.bias",
    }
    learned = reading_of(embedding="log_power", montage="laplacian", lags="haemodynamic", level="window")
    assert all(parameter.requires_grad for parameter in learned.parameters())


@pytest.mark.parametrize("choice", [{"learned_reading": True}, {"embedding": "linear"}])
def test_a_reading_that_is_learned_or_as_large_as_the_eeg_is_not_made_before(choice):
    assert fixed_reading(ReadingConfig(**choice), shape(low_rank=True)) is None


@pytest.mark.parametrize("architecture", ["fully_connected", "transformer"])
def test_a_model_says_the_same_of_eeg_and_of_what_was_read_of_it_before(architecture):
    """Training sees readings that were made once; a deployed model reads EEG."""
    known = ARCHITECTURES[architecture]
    config = known.config()
    torch.manual_seed(0)
    model = known.build(config, shape(low_rank=True)).eval()
    windows = eeg(num_windows=8)
    assert torch.equal(model(known.reading(config, shape(low_rank=True)).read(windows)), model(windows))


def test_readings_of_different_choices_have_different_names():
    names = {
        fixed_reading(ReadingConfig(montage=montage, lags=lags), shape(low_rank=True)).name
        for montage in MONTAGES
        for lags in LAGS
    }
    assert len(names) == len(MONTAGES) * len(LAGS)
