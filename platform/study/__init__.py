"""The search itself: its settings, its fold jobs on Ray Tune, how it goes on, and its winner."""
