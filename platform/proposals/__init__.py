"""Which configuration comes next: samplers, and what these are shown of earlier trials."""
