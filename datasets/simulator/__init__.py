"""The simulator: recordings whose right answer is known, from sources in the brain to files on disk."""
