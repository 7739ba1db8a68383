"""Networks that others wrote."""
