"""Generate LiTS-like phantom CTs."""
