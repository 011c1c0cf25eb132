"""The swarm: nodes that pass on to each other what they have of a version, while they still receive it."""
