"""The swarm: nodes that pass pieces of a version on to each other, while they still receive it."""
