"""``python -m benchmarks.arena [--seeds 30] [--results FILE] [--figure FILE]``: ours and the peers on the same tables.

Takes the number of tables of each kind; prints regret and fold jobs by rule, mean ranks with their critical difference,
and where a peer is better; draws regret against fold jobs and time.  ``--results`` keeps every play: the same command
goes on where it was stopped, and ``--show`` only prints what is there.
"""

import argparse
import functools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import optuna
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.arena.clock import Play, Rule, play
from benchmarks.arena.peers import PEERS, SLOW, missing
from benchmarks.arena.ranks import critical_difference, friedman_p, mean_ranks
from benchmarks.arena.recorded import RECORDED, recorded_table
from benchmarks.arena.results import Plays, common_seeds, read_plays, write_play
from benchmarks.arena.rules import Ours
from benchmarks.arena.tables import TABLES, ScoreTable, generate
from benchmarks.table import Row, print_table
from platform.racing.next_job import RACINGS

NUM_TRIALS, QUICK_TRIALS = 128, 48
QUICK_SEEDS = 2
FULL = "random, all folds"
SAMPLER = "tpe"
BUDGETS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of what full scoring spends, in fold jobs or in time, after which rules are ranked."""
Make = Callable[[ScoreTable, int, int], Rule]
Moment = Callable[[Play, Play], float]
"""From a play, and full scoring's on the same table, to the regret that counts."""


def rules(*, with_slow: bool) -> dict[str, Make]:
    """Return every rule that can run here, ours first."""
    found: dict[str, Make] = {f"ours, {racing}": functools.partial(_ours, racing) for racing in RACINGS}
    for name, (_, make) in PEERS.items():
        if not missing(name) and (with_slow or name not in SLOW):
            found[name] = make
    return found


def _ours(racing: str, table: ScoreTable, seed: int, num_trials: int) -> Rule:
    return Ours(table, seed, racing, SAMPLER, num_trials)


def tables() -> dict[str, Callable[[int], ScoreTable]]:
    """Return every kind of table: from a seed to a table."""
    return {each.name: functools.partial(generate, each) for each in TABLES} | {RECORDED: recorded_table}


def play_all(making: Mapping[str, Make], seeds: Sequence[int], num_trials: int, results: Path | None = None) -> Plays:
    """Play every rule on every table, the same tables and seeds for all; what is in the file is not played again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plays: Plays = read_plays(results) if results else {}
    for seed in seeds:
        for kind, make_table in tables().items():
            of_table = plays.setdefault(kind, {})
            table = make_table(seed)
            for name, make in making.items():
                if seed in of_table.setdefault(name, {}):
                    continue
                of_table[name][seed] = play(table, make(table, seed, min(num_trials, len(table.scores_TF))))
                if results:
                    write_play(results, kind, name, seed, of_table[name][seed])
        print(f"seed {seed} is played", file=sys.stderr, flush=True)
    return plays


def comparisons(plays: Plays) -> dict[str, list[str]]:
    """Return which rules are ranked together: all that played most tables, and all that played any."""
    counts = {name: sum(len(of_table.get(name, {})) for of_table in plays.values()) for name in _names(plays)}
    usual = [name for name, count in counts.items() if count and name not in SLOW]
    every = [name for name, count in counts.items() if count]
    return {"": usual} if usual == every else {"": usual, "slow peers, too": every}


def _names(plays: Plays) -> list[str]:
    return list(dict.fromkeys(name for of_table in plays.values() for name in of_table))


def regrets(plays: Plays, names: list[str], moment: Moment, kinds: Sequence[str] = ()) -> NDArray[np.float64]:
    """Return one row for every table that all these rules played, one column for every rule."""
    return np.array(
        [
            [moment(of_table[name][seed], of_table[FULL][seed]) for name in names]
            for kind, of_table in plays.items()
            if not kinds or kind in kinds
            for seed in common_seeds(of_table, names)
        ]
    )


def _after_jobs(share: float, played: Play, full: Play) -> float:
    return played.after_jobs(max(round(share * full.num_jobs), 1))


def _after_time(share: float, played: Play, full: Play) -> float:
    return played.after_seconds(share * full.seconds)


MOMENTS: dict[str, Moment] = (
    {f"after {share:.0%} of all fold jobs": functools.partial(_after_jobs, share) for share in BUDGETS}
    | {f"after {share:.0%} of the time": functools.partial(_after_time, share) for share in BUDGETS}
    | {"at its own end": lambda played, _: played.regret}
)
"""When rules are ranked; the shares are of what full scoring spends."""


def table_rows(plays: Plays) -> list[Row]:
    """Return regret and saving by rule and table, then mean ranks."""
    rows = [_row(kind, name, of_table) for kind, of_table in plays.items() for name in of_table if of_table[name]]
    for what, names in comparisons(plays).items():
        rows += _rank_rows(plays, names, what)
    return [*rows, *_absent_rows(plays)]


def _row(kind: str, name: str, of_table: dict[str, dict[int, Play]]) -> Row:
    seeds = common_seeds(of_table, [name, FULL])
    own, full = ([of_table[each][seed] for seed in seeds] for each in (name, FULL))
    beyond = [each.regret - whole.regret for each, whole in zip(own, full, strict=True)]
    hours = statistics.fmean(each.seconds for each in own) / 3600
    saved = sum(each.num_jobs for each in full) / sum(each.num_jobs for each in own)
    return Row(
        benchmark="arena",
        what=f"{kind}: {name}",
        value=f"{statistics.fmean(beyond):+.3f} +- {_error(beyond):.3f} beyond full scoring, "
        f"regret {statistics.fmean(each.regret for each in own):.3f}, {hours:.1f} h, {len(seeds)} tables",
        ratio=f"{saved:.1f} x fewer fold jobs",
    )


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def _rank_rows(plays: Plays, names: list[str], which: str) -> list[Row]:
    rows = []
    for what, moment in MOMENTS.items():
        values_NR = regrets(plays, names, moment)
        if len(values_NR) < 2:  # noqa: PLR2004 - no ranks of one table
            continue
        difference, chance = critical_difference(len(names), len(values_NR)), friedman_p(values_NR)
        order = sorted(zip(mean_ranks(values_NR), names, strict=True))
        rows.append(
            Row(
                benchmark="arena",
                what=f"mean rank {what}" + (f" ({which})" if which else ""),
                value="; ".join(f"{name} {rank:.2f}" for rank, name in order),
                ratio=f"{len(values_NR)} tables, critical difference {difference:.2f}, Friedman p {chance:.1g}",
            )
        )
    return rows


def _absent_rows(plays: Plays) -> list[Row]:
    played = set(_names(plays))
    left = {
        name: f"not installed ({', '.join(missing(name))})" if missing(name) else "left to the whole run"
        for name in PEERS
        if name not in played
    }
    return [Row(benchmark="arena", what=name, value=why) for name, why in left.items()]


def better_peers(plays: Plays) -> list[str]:
    """Return one line for every table on which a peer's mean regret at its end lies below that of our best rule."""
    lines = []
    names = comparisons(plays)[""]
    for kind in plays:
        values_NR = regrets(plays, names, MOMENTS["at its own end"], [kind])
        if not len(values_NR):
            continue
        means = dict(zip(names, values_NR.mean(axis=0).tolist(), strict=True))
        ours = min((mean, name) for name, mean in means.items() if name.startswith("ours"))
        lines += [
            f"{kind}: {name} is better than {ours[1]}: {mean:.3f} against {ours[0]:.3f}"
            for name, mean in means.items()
            if mean < ours[0]
        ]
    return lines


def figure(plays: Plays) -> Figure:
    """Draw mean regret against fold jobs above, against simulated hours below, one column a table."""
    names = comparisons(plays)[""]
    kinds = [kind for kind, of_table in plays.items() if common_seeds(of_table, names)]
    drawn = Figure(figsize=(4 * len(kinds), 7), layout="constrained")
    axes = drawn.subplots(2, len(kinds), squeeze=False)
    for column, kind in enumerate(kinds):
        seeds = common_seeds(plays[kind], names)
        for name in names:
            found = [plays[kind][name][seed] for seed in seeds]
            style = "-" if name.startswith("ours") else "--"
            jobs = np.geomspace(4, max(each.num_jobs for each in found), 100)
            hours = np.linspace(0, max(each.seconds for each in found) / 3600, 100)
            by_jobs = [statistics.fmean(each.after_jobs(at) for each in found) for at in jobs]
            by_time = [statistics.fmean(each.after_seconds(3600 * at) for each in found) for at in hours]
            axes[0, column].plot(jobs, by_jobs, style, label=name)
            axes[1, column].plot(hours, by_time, style)
        axes[0, column].set(title=f"{kind} ({len(seeds)} tables)", xlabel="fold jobs", xscale="log", ylim=(0, 1.5))
        axes[1, column].set(xlabel="simulated hours", ylim=(0, 1.5))
    axes[0, 0].set_ylabel("regret, spreads")
    axes[1, 0].set_ylabel("regret, spreads")
    axes[0, -1].legend(fontsize="x-small")
    return drawn


def measure() -> list[Row]:
    """Play the quick arena, for ``make bench``."""
    return table_rows(play_all(rules(with_slow=False), range(QUICK_SEEDS), QUICK_TRIALS))


def main() -> None:
    """Play, print, draw."""
    arguments = _arguments()
    if arguments.quick:
        print_table(measure())
        return
    if arguments.show:
        plays = read_plays(arguments.results)
    else:
        chosen = {
            name: make
            for name, make in rules(with_slow=arguments.slow).items()
            if not arguments.rules or name in arguments.rules
        }
        plays = play_all(chosen, range(arguments.seeds), NUM_TRIALS, arguments.results)
    if arguments.figure:
        figure(plays).savefig(arguments.figure, dpi=70)
    print_table(table_rows(plays))
    print("\n".join(["", *better_peers(plays)]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena", description=__doc__)
    parser.add_argument("--seeds", metavar="N", type=int, default=30, help="tables of each kind [default 30]")
    parser.add_argument("--rules", metavar="NAME", action="append", help="play this rule only; may be given again")
    parser.add_argument("--slow", action="store_true", help=f"peers that take minutes a table, too: {sorted(SLOW)}")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SEEDS} seeds, {QUICK_TRIALS} trials, no figure")
    parser.add_argument("--results", metavar="FILE", type=Path, help="where plays are kept, one JSON line each")
    parser.add_argument("--show", action="store_true", help="play nothing, show what is in the results")
    parser.add_argument("--figure", metavar="FILE", type=Path, help="an image of regret against jobs and time")
    arguments = parser.parse_args()
    if arguments.show and not arguments.results:
        parser.error("--show needs --results FILE")
    return arguments


if __name__ == "__main__":
    main()
