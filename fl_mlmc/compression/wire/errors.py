"""The error for bytes that came from elsewhere."""


class WireError(ValueError):
    """Bytes from elsewhere break a rule of the payload format. Drop them, log the drop, go on."""
