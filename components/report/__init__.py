"""Write the report page of a run."""
