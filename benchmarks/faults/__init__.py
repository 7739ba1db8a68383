"""Commands under attack: they must leave nothing behind, and the same command must then end like an undisturbed one."""
