"""Commands under attack: nothing is left over, and the same command then ends as an undisturbed one."""
