"""Recordings to shards: everything between the scanner's files and what a model is trained on."""
