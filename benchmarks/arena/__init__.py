"""Our racing and samplers beside their peers, on tables of scores replayed under a simulated clock."""
