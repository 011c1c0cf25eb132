"""The rules of a swarm: which ranges its nodes hand out, ask for and answer, for nodes and a simulator."""
