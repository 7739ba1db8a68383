"""Check the parameters of a run before anything else of it starts."""
