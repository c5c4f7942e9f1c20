"""The parts of a study's report: its figures, its sections, and the page around them."""
