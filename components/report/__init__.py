"""The report page of a run, and the pipeline component that writes it."""
