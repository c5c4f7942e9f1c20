"""Windows: 30 s of EEG meet the volume that follows them; the cache is made once and never read torn."""

import dataclasses
import multiprocessing
import os
import queue
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from small_study import NUM_CHANNELS, NUM_VOXELS, small_layout, write_small_study

from datasets.errors import BadInput
from datasets.shards import (
    Manifest,
    ShardEntry,
    events_table,
    quantise,
    read_manifest,
    shard_names,
    shard_table,
    write_shard,
    write_table,
)
from datasets.storage import open_storage, write_whole
from platform.data import windows
from platform.data.once import made_once
from platform.data.windows import (
    PAIRINGS,
    RATES_HZ,
    RunCache,
    decimate,
    eeg_batch,
    fitting_rates,
    swap_runs,
    target_batch,
    window_index,
    window_volumes,
)

VOLUMES = 24
FULL_RATE_HZ = 1000


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A small study at 250 Hz: 2 subjects of 2 runs."""
    return write_small_study(tmp_path_factory.mktemp("study"), subjects=2, runs=2, volumes=VOLUMES)


@pytest.fixture(scope="module")
def full_rate(tmp_path_factory) -> RunCache:
    """One run at 1000 Hz, as prepared from recordings, in which every sample tells its channel and its time."""
    folder = tmp_path_factory.mktemp("full_rate")
    return one_run_cache(folder, staircase(), FULL_RATE_HZ)


def staircase() -> np.ndarray:
    """Return EEG (C, N) at 1000 Hz that is constant over each half second, and differs between all of them."""
    halves = np.arange(VOLUMES * 4) / 10 - 4
    return np.stack([np.repeat(halves, FULL_RATE_HZ // 2) + channel / 50 for channel in range(NUM_CHANNELS)])


def one_run_cache(
    folder: Path, eeg_CN: np.ndarray, rate_hz: int, *, stored_hz: int = FULL_RATE_HZ, repetition_time_s: float = 2.0
) -> RunCache:
    """Return the cache of a study that holds one run with this EEG (C, N); volume r is full of r / 10."""
    storage = open_storage(folder)
    layout = dataclasses.replace(small_layout(), eeg_rate_hz=stored_hz, repetition_time_s=repetition_time_s)
    rows = eeg_CN.shape[1] // layout.samples_per_volume
    per_volume = eeg_CN.reshape(len(eeg_CN), rows, -1).transpose(1, 0, 2).astype(np.float32)
    eeg_RCS, _ = quantise(per_volume, layout.eeg_scale)
    bold_RV, _ = quantise(np.repeat(np.arange(rows)[:, None] / 10, NUM_VOXELS, axis=1).astype(np.float32))
    names = shard_names("sub-01", "auditory", 1)
    shard = write_shard(storage, names["shard"], shard_table("sub-01", "auditory", 1, eeg_RCS, bold_RV, layout))
    beside = write_table(storage, names["events"], events_table(np.zeros(0), np.zeros(0), ()))
    entry = ShardEntry(
        **dataclasses.asdict(shard),
        subject="sub-01",
        task="auditory",
        run=1,
        rows=rows,
        clipped=0,
        events=beside,
        confounds=beside,
    )
    manifest = Manifest(layout=layout, pipeline={}, shards=(entry,), files=(), skipped=())
    return RunCache(folder=folder / "cache", storage=storage, manifest=manifest, rate_hz=rate_hz)


def cache_of(study: Path, folder: Path, rate_hz: int = 250) -> RunCache:
    storage = open_storage(study)
    return RunCache(folder=folder, storage=storage, manifest=read_manifest(storage), rate_hz=rate_hz)


def stored(cache: RunCache, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a shard's EEG (C, N) and BOLD (R, V) in standard deviations, read without the code under test."""
    table = pq.read_table(cache.storage.path(cache.manifest.shards[number].name))
    steps = {"eeg": cache.manifest.layout.eeg_scale, "bold": cache.manifest.layout.scale}
    eeg_RN, bold_RV = (np.array(table[name].to_pylist()) * step for name, step in steps.items())
    return eeg_RN.reshape(len(eeg_RN), NUM_CHANNELS, -1).transpose(1, 0, 2).reshape(NUM_CHANNELS, -1), bold_RV


def sine(hertz: float, seconds: float = 2.0 * VOLUMES) -> np.ndarray:
    """Return the same tone in every channel, (C, N) at 1000 Hz, with a root mean square of 1."""
    tone = np.sqrt(2) * np.sin(2 * np.pi * hertz * np.arange(round(seconds * FULL_RATE_HZ)) / FULL_RATE_HZ)
    return np.tile(tone, (NUM_CHANNELS, 1)).astype(np.float32)


def loudness(eeg_CN: np.ndarray) -> float:
    """Return the root mean square away from the edges."""
    margin = eeg_CN.shape[1] // 10
    return float(np.sqrt(np.mean(eeg_CN[:, margin:-margin].astype(np.float64) ** 2)))


def cached_files(cache: RunCache) -> list[Path]:
    return sorted(cache.folder.glob("*.arrow"))


# Which EEG meets which volume


def test_window_i_is_30_seconds_of_eeg_and_pairs_with_volume_15_plus_i(full_rate):
    cache = dataclasses.replace(full_rate, folder=full_rate.folder / "full", rate_hz=FULL_RATE_HZ)
    eeg_CN, bold_RV = stored(cache)
    run = cache.open(cache.manifest.shards[0])
    assert run.num_windows == VOLUMES - 15
    for number in range(run.num_windows):
        start = 2 * FULL_RATE_HZ * number
        expected = eeg_CN[:, start : start + 30 * FULL_RATE_HZ]
        assert run.window(number).shape == (NUM_CHANNELS, 30 * FULL_RATE_HZ)
        np.testing.assert_array_equal(run.window(number), expected.astype(np.float32).astype(np.float16))
        np.testing.assert_allclose(run.targets[number], bold_RV[15 + number], atol=1e-3)
        assert run.targets[number][0] == pytest.approx((15 + number) / 10, abs=1e-3)


@pytest.mark.parametrize("rate_hz", [250, 125])
def test_decimated_windows_hold_the_same_seconds(full_rate, rate_hz):
    cache = dataclasses.replace(full_rate, folder=full_rate.folder / f"{rate_hz}", rate_hz=rate_hz)
    eeg_CN, _ = stored(cache)
    run = cache.open(cache.manifest.shards[0])
    middles_s = np.arange(60) / 2 + 0.25  # of the half seconds over which the staircase is constant
    for number in range(run.num_windows):
        window_CS = run.window(number)
        assert window_CS.shape == (NUM_CHANNELS, 30 * rate_hz)
        at_middles = window_CS[:, np.round(middles_s * rate_hz).astype(int)]
        expected = eeg_CN[:, np.round((2 * number + middles_s) * FULL_RATE_HZ).astype(int)]
        np.testing.assert_allclose(at_middles, expected, atol=0.01)  # a step is 0.1 high


def test_a_study_at_its_own_rate_is_not_filtered(study, tmp_path):
    cache = cache_of(study, tmp_path)
    for number, entry in enumerate(cache.manifest.shards):
        eeg_CN, bold_RV = stored(cache, number)
        run = cache.open(entry)
        assert (run.subject, run.task, run.run) == (entry.subject, entry.task, entry.run)
        np.testing.assert_allclose(run.eeg_CS, eeg_CN, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(run.bold_RV, bold_RV, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("volumes", [15, 16])
def test_a_run_without_30_seconds_before_a_volume_has_no_window(tmp_path, volumes):
    folder = write_small_study(tmp_path / "study", subjects=1, runs=1, volumes=volumes)
    runs = cache_of(folder, tmp_path / "cache").open_subject("sub-01")
    assert [run.num_windows for run in runs] == [1] * (volumes - 15)


# Rates


@pytest.mark.parametrize(("rate_hz", "hertz", "survives"), [
    (250, 100, True), (250, 150, False), (250, 240, False), (125, 10, True), (125, 50, True), (125, 80, False),
    (125, 120, False),
])  # fmt: skip
def test_a_tone_survives_below_half_the_new_rate_and_vanishes_above(rate_hz, hertz, survives):
    decimated = decimate(sine(hertz), FULL_RATE_HZ // rate_hz)
    assert decimated.shape == (NUM_CHANNELS, 2 * VOLUMES * rate_hz)
    if survives:
        assert loudness(decimated) == pytest.approx(1, abs=0.02)
    else:
        assert loudness(decimated) < 0.02


def test_the_cache_holds_no_alias_either(tmp_path):
    loudnesses = {}
    for hertz in (10, 115):  # sampled at 125 Hz without a filter, the two tones are the same
        cache = one_run_cache(tmp_path / f"{hertz}", sine(hertz), rate_hz=125)
        loudnesses[hertz] = loudness(cache.open(cache.manifest.shards[0]).eeg_CS)
    assert loudnesses[10] == pytest.approx(1, abs=0.02)
    assert loudnesses[115] < 0.02


def test_decimating_moves_nothing_in_time():
    pulse = np.zeros((1, 4000), np.float32)
    pulse[0, 2000] = 1
    for factor in (4, 8):
        assert decimate(pulse, factor)[0].argmax() == 2000 // factor


def test_decimation_sees_ten_output_samples_ahead_and_no_more():
    noise = np.random.default_rng(0).standard_normal((1, 8000)).astype(np.float32)
    changed = noise.copy()
    changed[:, 4000:] += 1
    untouched = 4000 // 8 - 10
    np.testing.assert_array_equal(decimate(noise, 8)[:, :untouched], decimate(changed, 8)[:, :untouched])


@pytest.mark.parametrize("rate_hz", [0, 100, 200])
def test_an_unknown_rate_is_refused(study, tmp_path, rate_hz):
    with pytest.raises(BadInput, match=rf"must be one of \(1000, 500, 250, 125\) Hz, but got {rate_hz}"):
        cache_of(study, tmp_path, rate_hz)


def test_a_rate_above_the_shards_is_refused(study, tmp_path):
    with pytest.raises(
        BadInput, match="EEG at 250 Hz cannot be decimated to 1000 Hz; a rate that works: 250 Hz or 125"
    ):
        cache_of(study, tmp_path, 1000)


# Other repetition times


@pytest.mark.parametrize(("repetition_time_s", "volumes"), [
    (2.0, 15), (2.16, 14), (1.5, 20), (0.8, 38), (3.0, 10), (0.72, 42), (40.0, 1),
])  # fmt: skip
def test_a_window_spans_30_seconds_to_the_nearest_volume(repetition_time_s, volumes):
    assert window_volumes(repetition_time_s) == volumes


@pytest.mark.parametrize(("stored_hz", "repetition_time_s", "rates"), [
    (1000, 2.0, (1000, 500, 250, 125)), (1000, 2.16, (1000, 500, 250, 125)), (1000, 1.5, (1000, 500, 250)),
    (500, 1.5, (500, 250)), (5000, 2.0, (1000, 500, 250, 125)), (1000, 2.005, (1000,)), (512, 2.0, ()),
])  # fmt: skip
def test_the_rates_that_fit_divide_the_stored_rate_and_give_whole_samples(stored_hz, repetition_time_s, rates):
    layout = dataclasses.replace(small_layout(), eeg_rate_hz=stored_hz, repetition_time_s=repetition_time_s)
    assert fitting_rates(layout) == rates


def test_a_rate_with_part_samples_is_refused_and_another_named(tmp_path):
    eeg_CN = np.zeros((NUM_CHANNELS, 30 * 1500))
    with pytest.raises(BadInput, match="spans 187.5 EEG samples, which is not a whole number; a rate that works: 1000"):
        one_run_cache(tmp_path, eeg_CN, 125, repetition_time_s=1.5)


def test_where_no_rate_fits_preparation_is_asked_for_another(tmp_path):
    eeg_CN = np.zeros((NUM_CHANNELS, 30 * 1024))
    with pytest.raises(
        BadInput, match="EEG at 512 Hz cannot be decimated to 250 Hz; prepare .* --eeg-rate 1000 or 500"
    ):
        one_run_cache(tmp_path, eeg_CN, 250, stored_hz=512)
    with pytest.raises(BadInput, match="none of .* Hz works with a repetition time of 1.2345 s"):
        one_run_cache(tmp_path, eeg_CN, 250, stored_hz=1000, repetition_time_s=1.2345)


@pytest.mark.parametrize(("repetition_time_s", "stored_hz", "rate_hz"), [
    (2.16, 500, 125), (2.16, 500, 500), (1.5, 1000, 250), (0.8, 250, 125),
])  # fmt: skip
def test_windows_end_where_their_volume_begins_at_any_repetition_time(tmp_path, repetition_time_s, stored_hz, rate_hz):
    rows = window_volumes(repetition_time_s) + 6
    per_volume = round(stored_hz * repetition_time_s)
    eeg_CN = np.tile(np.repeat(np.arange(rows) / 10, per_volume), (NUM_CHANNELS, 1))
    cache = one_run_cache(tmp_path, eeg_CN, rate_hz, stored_hz=stored_hz, repetition_time_s=repetition_time_s)
    run = cache.open(cache.manifest.shards[0])
    assert rate_hz in RATES_HZ
    assert run.num_windows == 6
    middle = round(rate_hz * repetition_time_s / 2)
    for number in range(run.num_windows):
        window_CS, length = run.window(number), round(rate_hz * repetition_time_s)
        assert window_CS.shape == (NUM_CHANNELS, window_volumes(repetition_time_s) * length)
        target = float(run.targets[number][0])
        assert window_CS[0, -length + middle] == pytest.approx(target - 0.1, abs=0.01)
        assert window_CS[0, middle] == pytest.approx(number / 10, abs=0.01)


def test_swapped_runs_keep_the_length_of_their_windows(tmp_path):
    eeg_CN = np.zeros((NUM_CHANNELS, 30 * 1080))
    cache = one_run_cache(tmp_path, eeg_CN, 125, stored_hz=500, repetition_time_s=2.16)
    run = cache.open(cache.manifest.shards[0])
    assert [swapped.window_volumes for swapped in swap_runs([run, run])] == [14, 14]


# The cache


def test_a_run_is_decoded_once_and_then_reused(study, tmp_path, monkeypatch):
    cache = cache_of(study, tmp_path)
    entry = cache.manifest.shards[0]
    first = cache.open(entry)
    made = {path: path.stat().st_mtime_ns for path in cached_files(cache)}
    assert len(made) == 2
    monkeypatch.setattr(windows, "read_shard", lambda *_: pytest.fail("the shard is read again"))
    second = cache_of(study, tmp_path).open(entry)
    np.testing.assert_array_equal(first.eeg_CS, second.eeg_CS)
    np.testing.assert_array_equal(first.bold_RV, second.bold_RV)
    assert {path: path.stat().st_mtime_ns for path in cached_files(cache)} == made


def test_cached_arrays_are_memory_mapped_and_read_only(study, tmp_path):
    cache = cache_of(study, tmp_path)
    run = cache.open(cache.manifest.shards[0])
    maps = Path("/proc/self/maps")
    if maps.exists():
        mapped = maps.read_text()
        assert all(str(path) in mapped for path in cached_files(cache))
    for values in (run.eeg_CS, run.bold_RV, run.window(0)):
        assert values.dtype == np.float16
        with pytest.raises(ValueError, match="read-only"):
            values[0, 0] = 1


def test_rates_share_no_eeg_and_one_bold(study, tmp_path):
    for rate_hz in (250, 125):
        cache = cache_of(study, tmp_path, rate_hz)
        cache.open(cache.manifest.shards[0])
    names = [path.name.split("-", 2)[2] for path in cached_files(cache)]
    assert sorted(names) == ["bold.arrow", "eeg-125hz.arrow", "eeg-250hz.arrow"]


def test_shards_of_other_bytes_have_another_cache(study, tmp_path):
    other = write_small_study(tmp_path / "other", subjects=1, runs=1, volumes=VOLUMES, seed=1)
    runs = [cache.open(cache.manifest.shards[0]) for cache in (cache_of(folder, tmp_path) for folder in (study, other))]
    assert len(list(tmp_path.glob("*.arrow"))) == 4
    assert not np.array_equal(runs[0].eeg_CS, runs[1].eeg_CS)


@pytest.mark.parametrize("tear", [
    lambda content: b"", lambda content: content[:7], lambda content: content[: len(content) // 2],
    lambda content: content[:-1], lambda content: content[:-1000] + bytes(1000), lambda content: bytes(len(content)),
], ids=["emptied", "only begun", "cut in half", "a byte less", "end of zeros", "all zeros"])  # fmt: skip
@pytest.mark.parametrize("which", [0, 1], ids=["bold", "eeg"])
def test_a_torn_cache_file_is_refused_and_made_anew_on_the_next_try(study, tmp_path, which, tear):
    cache = cache_of(study, tmp_path)
    entry = cache.manifest.shards[0]
    before = cache.open(entry)
    eeg_CS, bold_RV = before.eeg_CS.copy(), before.bold_RV.copy()
    torn = cached_files(cache)[which]
    write_whole(torn, tear(torn.read_bytes()))
    with pytest.raises(BadInput, match=rf"the cached run {torn} was torn and is deleted; run the same command again"):
        cache.open(entry)
    again = cache.open(entry)
    np.testing.assert_array_equal(again.eeg_CS, eeg_CS)
    np.testing.assert_array_equal(again.bold_RV, bold_RV)


def open_and_report(
    study: Path, folder: Path, barrier: "multiprocessing.synchronize.Barrier", answers: "multiprocessing.Queue"
) -> None:
    """Open every run, in step with another process at the start, and send a sum of each."""
    cache = cache_of(study, folder, 125)
    barrier.wait(60)
    runs = [cache.open(entry) for entry in cache.manifest.shards]
    answers.put([float(run.eeg_CS.sum(dtype=np.float64) + run.bold_RV.sum(dtype=np.float64)) for run in runs])


def test_two_processes_may_open_the_same_runs_at_once(study, tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    arguments = (study, tmp_path, barrier, answers)
    processes = [context.Process(target=open_and_report, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    sums = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sums[0] == sums[1]
    assert len(cached_files(cache_of(study, tmp_path))) == 2 * 4
    assert not list(tmp_path.glob(".*.arrow.*"))  # no temporary files


def test_what_two_need_at_once_is_made_by_one_of_them(tmp_path):
    path, starts, made = tmp_path / "deep" / "file", threading.Barrier(4), queue.Queue()

    def make() -> None:
        made.put(os.getpid())
        write_whole(path, b"content")

    def need() -> None:
        starts.wait(10)
        assert made_once(path, make).read_bytes() == b"content"

    threads = [threading.Thread(target=need) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert made.qsize() == 1


def test_a_failed_attempt_leaves_the_next_one_free(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(ZeroDivisionError):
        made_once(path, lambda: 1 / 0)
    assert made_once(path, lambda: write_whole(path, b"content")).read_bytes() == b"content"


# Batches


def test_the_index_names_every_window_once(study, tmp_path):
    runs = cache_of(study, tmp_path).open_subject("sub-01")
    index_N2 = window_index(runs)
    expected = [(which, number) for which in range(2) for number in range(VOLUMES - 15)]
    assert [tuple(pair) for pair in index_N2.tolist()] == expected


def test_batches_hold_the_windows_and_volumes_that_the_index_names(study, tmp_path):
    runs = cache_of(study, tmp_path, 125).open_subject("sub-02")
    index_B2 = np.random.default_rng(0).permutation(window_index(runs))[:7]
    eeg_BCS, target_BV = eeg_batch(runs, index_B2), target_batch(runs, index_B2)
    assert (eeg_BCS.dtype, eeg_BCS.shape) == (torch.float32, (7, NUM_CHANNELS, 30 * 125))
    assert (target_BV.dtype, target_BV.shape) == (torch.float32, (7, NUM_VOXELS))
    for row, (which, number) in enumerate(index_B2):
        np.testing.assert_array_equal(eeg_BCS[row], runs[which].eeg_CS[:, 250 * number : 250 * number + 3750])
        np.testing.assert_array_equal(target_BV[row], runs[which].bold_RV[15 + number])


def test_a_batch_is_a_copy_that_may_be_written(study, tmp_path):
    runs = cache_of(study, tmp_path).open_subject("sub-01")
    before = runs[0].window(0).copy()
    eeg_batch(runs, window_index(runs)[:1]).zero_()
    np.testing.assert_array_equal(runs[0].window(0), before)


# The control that pairs another run's EEG


def test_swapping_runs_pairs_the_eeg_of_the_next_run_and_keeps_the_bold(study, tmp_path):
    runs = cache_of(study, tmp_path).open_subject("sub-01")
    swapped = swap_runs(runs)
    assert [(run.subject, run.task, run.run) for run in swapped] == [
        ("sub-01", "auditory", 1),
        ("sub-01", "auditory", 2),
    ]
    for run, other, recorded in zip(swapped, runs[::-1], runs, strict=True):
        np.testing.assert_array_equal(run.eeg_CS, other.eeg_CS)
        np.testing.assert_array_equal(run.bold_RV, recorded.bold_RV)
        assert not np.array_equal(run.eeg_CS, recorded.eeg_CS)
        assert run.num_windows == recorded.num_windows


def test_no_run_keeps_its_own_eeg_however_many_there_are(tmp_path):
    folder = write_small_study(tmp_path / "study", subjects=1, runs=3, volumes=17)
    runs = cache_of(folder, tmp_path / "cache").open_subject("sub-01")
    swapped = swap_runs(runs)
    assert all(not np.array_equal(run.eeg_CS, own.eeg_CS) for run, own in zip(swapped, runs, strict=True))
    assert len({run.eeg_CS.tobytes() for run in swapped}) == 3


def test_swapped_runs_of_different_lengths_are_cut_to_the_shorter(study, tmp_path):
    long, other = cache_of(study, tmp_path).open_subject("sub-01")
    short = dataclasses.replace(other, eeg_CS=other.eeg_CS[:, : 20 * 500], bold_RV=other.bold_RV[:20])
    for run, bold_of, eeg_of in zip(swap_runs([long, short]), (long, short), (short, long), strict=True):
        np.testing.assert_array_equal(run.bold_RV, bold_of.bold_RV[:20])
        np.testing.assert_array_equal(run.eeg_CS, eeg_of.eeg_CS[:, : 20 * 500])
        assert run.num_windows == 5
        assert run.window(4).shape == (NUM_CHANNELS, 7500)


def test_a_single_run_cannot_be_swapped(study, tmp_path):
    runs = cache_of(study, tmp_path).open_subject("sub-01")[:1]
    with pytest.raises(BadInput, match="needs 2 or more runs"):
        swap_runs(runs)


def test_the_recorded_pairing_changes_nothing(study, tmp_path):
    runs = cache_of(study, tmp_path).open_subject("sub-01")
    paired = PAIRINGS["recorded"](runs)
    assert all(one is other for one, other in zip(paired, runs, strict=True))
    assert set(PAIRINGS) == {"recorded", "run-swapped"}
