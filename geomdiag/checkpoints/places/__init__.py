"""Where checkpoints may lie: on this machine, at an address, in an archive."""
