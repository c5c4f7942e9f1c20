"""A study's data: shards to cached windows, subjects to folds, and what all configurations share on a fold."""
