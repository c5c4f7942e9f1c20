"""The one error that a user is meant to read: bad input, in one line that says what to do."""


class BadInput(ValueError):
    """Something the user gave cannot be used; the message says what must hold, what came, and what to do."""
