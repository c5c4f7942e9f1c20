"""Plays on disk, one JSON line each: an arena that is stopped goes on where it was, and can be shown at any time.

Takes plays as they end; gives them back by table, rule and seed.
"""

import dataclasses
import json
from pathlib import Path

from benchmarks.arena.clock import Play

Plays = dict[str, dict[str, dict[int, Play]]]
"""By table, by rule, by seed."""


def write_play(place: Path, table: str, rule: str, seed: int, played: Play) -> None:
    """Add a play to the file, in one write."""
    line = json.dumps({"table": table, "rule": rule, "seed": seed, **dataclasses.asdict(played)})
    with place.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_plays(place: Path) -> Plays:
    """Return the plays of a file; a last line that was cut off is passed over."""
    plays: Plays = {}
    lines = place.read_text(encoding="utf-8").splitlines(keepends=True) if place.exists() else []
    for line in lines:
        if not line.endswith("\n"):
            continue
        found = json.loads(line)
        played = Play(
            num_jobs=found["num_jobs"], seconds=found["seconds"], steps=tuple(tuple(step) for step in found["steps"])
        )
        plays.setdefault(found["table"], {}).setdefault(found["rule"], {})[found["seed"]] = played
    return plays


def common_seeds(of_table: dict[str, dict[int, Play]], rules: list[str]) -> list[int]:
    """Return the seeds of a table that all the given rules have played."""
    return sorted(set.intersection(*(set(of_table.get(rule, {})) for rule in rules)))
