"""The truth about a study: one record per trial and fold, one writer at a time, the code that made it."""
