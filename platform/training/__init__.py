"""One training: a configuration on a fold, from its job to the scores of each epoch."""
