"""New EEG to predicted volumes; ``portable`` and ``alignment`` travel with a logged model."""
