"""Compare a model with the best earlier one: the gate before its export."""
