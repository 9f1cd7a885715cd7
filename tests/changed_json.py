"""JSON of which one value is not what it was."""

ODD = [
    *(None, True, -1, 0, 1, 2.5, 10**12, 1e308, float("nan"), "", "a", "1", "\ud800"),
    *([], {}, [[]], [1, 2], {"type": "batchnorm"}),
]


def changed(value, chance):
    """JSON with one value somewhere inside replaced by one of another kind or size."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        if chance.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], changed(value[at], chance), *value[at + 1 :]]
    return chance.choice(ODD)
