"""Check the parameters of a run before anything else in it starts."""
