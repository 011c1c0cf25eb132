"""The rules of a swarm: the ranges to hand out, ask for and answer, for nodes and a simulator."""
