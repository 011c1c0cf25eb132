"""Power cuts: work is recorded call by call, and a restart meets each state that a cut may leave."""
