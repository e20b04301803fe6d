"""The one error of this package."""


class WeightsError(RuntimeError):
    """A weights file cannot be had or must not be read; the message names it and the remedy."""
