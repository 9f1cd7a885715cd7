"""The error of weights; it costs nothing to import."""


class WeightsError(Exception):
    """Weights that cannot be loaded or saved. The message names the file, the reason and the next step."""
