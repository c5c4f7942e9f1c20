"""Scores of predicted volumes, and the baselines that a configuration must beat: functions of arrays."""
