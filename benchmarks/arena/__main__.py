"""``python -m benchmarks.arena [--seeds 30] [--quick] [--figure FILE]``: ours and the peers on the same tables.

Takes the number of seeds; prints one table, and says where a peer is better; draws regret against fold jobs and time.
"""

import argparse
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.arena.clock import Play, Rule, play
from benchmarks.arena.peers import NOT_PLAYED, PEERS, SLOW, missing
from benchmarks.arena.ranks import critical_difference, friedman_p, mean_ranks
from benchmarks.arena.rules import Ours
from benchmarks.arena.tables import NUM_FOLDS, TABLES, ScoreTable, generate
from benchmarks.table import Row, print_table
from platform.racing import RACINGS

NUM_TRIALS, QUICK_TRIALS = 128, 48
QUICK_SEEDS = 2
FULL = "random, all folds"
SAMPLER = "tpe"
Make = Callable[[ScoreTable, int, int], Rule]
Plays = Mapping[str, Mapping[str, Sequence[Play]]]
"""By table, by rule: one play a seed."""


def rules(*, is_quick: bool) -> dict[str, Make]:
    """Return every rule that can run here, ours first."""
    found: dict[str, Make] = {f"ours, {racing}": functools.partial(_ours, racing) for racing in RACINGS}
    for name, (_, make) in PEERS.items():
        if not missing(name) and not (is_quick and name in SLOW):
            found[name] = make
    return found


def _ours(racing: str, table: ScoreTable, seed: int, num_trials: int) -> Rule:
    return Ours(table, seed, racing, SAMPLER, num_trials)


def play_all(making: Mapping[str, Make], num_seeds: int, num_trials: int) -> dict[str, dict[str, list[Play]]]:
    """Play every rule on every table, the same tables and seeds for all."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plays: dict[str, dict[str, list[Play]]] = {}
    for settings in TABLES:
        plays[settings.name] = {name: [] for name in making}
        for seed in range(num_seeds):
            table = generate(settings, seed)
            for name, make in making.items():
                plays[settings.name][name].append(play(table, make(table, seed, num_trials)))
    return plays


def final_regrets(plays: Plays) -> NDArray[np.float64]:
    """Return the regret at the end, one row for every table and seed, one column for every rule."""
    return np.array(
        [
            [of_table[name][seed].regrets[-1] for name in of_table]
            for of_table in plays.values()
            for seed in range(len(of_table[FULL]))
        ]
    )


def regrets_at(plays: Plays, budget: float) -> NDArray[np.float64]:
    """Return regrets after that share of the fold jobs of full scoring; a rule that is done keeps what it has."""
    return np.array(
        [
            [_at(of_table[name][seed], round(budget * of_table[FULL][seed].num_jobs)) for name in of_table]
            for of_table in plays.values()
            for seed in range(len(of_table[FULL]))
        ]
    )


def _at(played: Play, num_jobs: int) -> float:
    return played.regrets[min(max(num_jobs, 1), played.num_jobs) - 1]


def table_rows(plays: Plays) -> list[Row]:
    """Return regret and saving by rule and table, then mean ranks."""
    rows = [_row(table, name, of_table[name], of_table[FULL]) for table, of_table in plays.items() for name in of_table]
    return [*rows, *_rank_rows(plays), *_absent_rows(plays)]


def _row(table: str, name: str, own: Sequence[Play], full: Sequence[Play]) -> Row:
    regrets = [played.regrets[-1] for played in own]
    error = statistics.stdev(regrets) / len(regrets) ** 0.5 if len(regrets) > 1 else float("nan")
    beyond = statistics.fmean(regrets) - statistics.fmean(played.regrets[-1] for played in full)
    jobs = sum(played.num_jobs for played in own)
    hours = statistics.fmean(played.moments_s[-1] for played in own) / 3600
    return Row(
        benchmark="arena",
        what=f"{table}: {name}",
        value=f"regret {statistics.fmean(regrets):.3f} +- {error:.3f} ({beyond:+.3f}), {hours:.1f} h",
        ratio=f"{sum(played.num_jobs for played in full) / jobs:.1f} x fewer fold jobs",
    )


def _rank_rows(plays: Plays) -> list[Row]:
    names = list(next(iter(plays.values())))
    rows = []
    for what, values_NR in (
        ("at the end", final_regrets(plays)),
        ("after 10 % of all fold jobs", regrets_at(plays, 0.1)),
        ("after 20 % of all fold jobs", regrets_at(plays, 0.2)),
    ):
        difference, chance = critical_difference(len(names), len(values_NR)), friedman_p(values_NR)
        order = sorted(zip(mean_ranks(values_NR), names, strict=True))
        rows += [
            Row(
                benchmark="arena",
                what=f"mean rank {what}: {name}",
                value=f"{rank:.2f}",
                ratio=f"critical difference {difference:.2f}, Friedman p {chance:.1g}",
            )
            for rank, name in order
        ]
    return rows


def _absent_rows(plays: Plays) -> list[Row]:
    played = next(iter(plays.values()))
    left = {
        name: f"not installed ({', '.join(missing(name))})" if missing(name) else "left to the whole run"
        for name in PEERS
        if name not in played
    }
    return [Row(benchmark="arena", what=name, value=why) for name, why in (left | NOT_PLAYED).items()]


def better_peers(plays: Plays) -> list[str]:
    """Return one line for every table on which a peer's mean regret at the end lies below that of our best rule."""
    lines = []
    for table, of_table in plays.items():
        means = {name: statistics.fmean(each.regrets[-1] for each in found) for name, found in of_table.items()}
        ours = min((mean, name) for name, mean in means.items() if name.startswith("ours"))
        lines += [
            f"{table}: {name} is better than {ours[1]}: {mean:.3f} against {ours[0]:.3f}"
            for name, mean in means.items()
            if mean < ours[0]
        ]
    return lines


def figure(plays: Plays) -> Figure:
    """Draw mean regret against fold jobs above, against simulated hours below, one column a table."""
    drawn = Figure(figsize=(4 * len(plays), 7), layout="constrained")
    axes = drawn.subplots(2, len(plays), squeeze=False)
    for column, (table, of_table) in enumerate(plays.items()):
        for name, found in of_table.items():
            style = "-" if name.startswith("ours") else "--"
            jobs = np.arange(1, max(each.num_jobs for each in found) + 1)
            by_jobs = np.mean([[_at(each, int(number)) for number in jobs] for each in found], axis=0)
            axes[0, column].plot(jobs, by_jobs, style, label=name)
            hours = np.linspace(0, max(each.moments_s[-1] for each in found), 200)
            places = [np.searchsorted(each.moments_s, hours, side="right") for each in found]
            pairs = zip(found, places, strict=True)
            by_time = np.mean([[_at(each, int(place)) for place in at] for each, at in pairs], axis=0)
            axes[1, column].plot(hours / 3600, by_time, style)
        axes[0, column].set(title=table, xlabel="fold jobs", xscale="log", ylim=(0, 1.5))
        axes[1, column].set(xlabel="simulated hours", ylim=(0, 1.5))
    axes[0, 0].set_ylabel("regret, spreads")
    axes[1, 0].set_ylabel("regret, spreads")
    axes[0, -1].legend(fontsize="x-small")
    return drawn


def measure() -> list[Row]:
    """Play the quick arena, for ``make bench``."""
    return table_rows(play_all(rules(is_quick=True), QUICK_SEEDS, QUICK_TRIALS))


def main() -> None:
    """Play, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena", description=__doc__)
    parser.add_argument("--seeds", metavar="N", type=int, default=30, help="tables of each kind")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds, {QUICK_TRIALS} trials, no figure")
    parser.add_argument("--figure", metavar="FILE", type=Path, default=Path("docs/arena.png"))
    arguments = parser.parse_args()
    if arguments.quick:
        print_table(measure())
        return
    plays = play_all(rules(is_quick=False), arguments.seeds, NUM_TRIALS)
    figure(plays).savefig(arguments.figure, dpi=90)
    print_table(table_rows(plays))
    print("\n".join(["", *better_peers(plays), f"{NUM_TRIALS} trials x {NUM_FOLDS} folds, {arguments.seeds} seeds"]))


if __name__ == "__main__":
    main()
