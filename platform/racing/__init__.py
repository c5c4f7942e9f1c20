"""Which fold job comes next, and when there is none: pure functions of the ledger's table and the settings."""
