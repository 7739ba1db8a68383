"""The error for a loss or metric that cannot be computed on shards."""

# The errors that a lowering rule may raise for an operation that it does not support.
REFUSALS = (ValueError, NotImplementedError, TypeError, AttributeError, IndexError)


class UnsupportedObjective(ValueError):
    """A loss or metric cannot be computed on shards with the same result as in Keras; the message names it."""


def refusal(kind: str, name: str, reason: str, instead: str) -> UnsupportedObjective:
    return UnsupportedObjective(
        f"{kind} '{name}' cannot be computed on a partitioned model: {reason}. {instead}, or let it see the whole "
        'predictions on every device with ks.partition(..., unsupported="replicate").'
    )
