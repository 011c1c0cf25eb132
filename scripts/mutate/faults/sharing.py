"""Faults in what sharing clients ask of each other, give and withdraw."""

from __future__ import annotations

from fault import Fault

ARRIVALS = "shardcast/swarm/arrivals.py"
EXCHANGE = "shardcast/swarm/exchange.py"
OPTIONS = "shardcast/cli/sharing_options.py"
SHARED = "shardcast/nodes/shared_version.py"

ENDS = ["tests/integration/test_sharing_clients.py"]
FAULTY = ["tests/faults/test_swarm_faults.py"]
UNIT = ["tests/unit/swarm/test_exchange.py"]
IDS = ["tests/integration/test_swarm_ids.py"]
SITES = ["tests/integration/test_next_range_sites.py", "tests/integration/test_sharing_sites.py"]

FAULTS = [
    Fault(
        name="changed-output-is-shared-further",
        file=SHARED,
        old="while self.pieces.unchanged:",
        new="while True:",
        tests=ENDS,
    ),
    Fault(
        name="sender-of-a-wrong-piece-stays",
        file=EXCHANGE,
        old="            self.banned.add(sender)\n",
        new="            self.chooser.neighbours.all\n",
        tests=FAULTY + UNIT,
    ),
    Fault(
        name="shard-closed-between-two-looks-is-not-held",
        file=ARRIVALS,
        old="            here |= pieces\n",
        new="",
        tests=UNIT,
    ),
    Fault(
        name="cancelled-piece-keeps-its-slot",
        file="shardcast/swarm/gifts.py",
        old="            self._slots.end(link.key)\n",
        new="",
        tests=["tests/unit/swarm/test_gifts.py"],
    ),
    Fault(
        name="variables-of-sharing-fail-clients-that-do-not-share",
        file=OPTIONS,
        old="is ParameterSource.COMMANDLINE",
        new="is not ParameterSource.DEFAULT",
        tests=["tests/unit/cli/test_sharing_options.py"],
    ),
    Fault(
        name="port-below-1024-is-shared-on",
        file="shardcast/nodes/sharing_settings.py",
        old="if 0 < self.port < LOWEST_PORT:",
        new="if self.port < 0:",
        tests=["tests/unit/cli/test_sharing_options.py"],
    ),
    Fault(
        name="sharing-never-ends-by-its-time",
        file=SHARED,
        old="        if self._seed_for is not None:",
        new="        if self._seed_for is False:",
        tests=ENDS,
    ),
    Fault(
        name="server-takes-all-nodes-for-its-own-site",
        file="shardcast/server/hand_outs.py",
        old="        if request.across is not None:\n",
        new="        if request.across is None:\n",
        tests=SITES,
    ),
    Fault(
        name="neighbour-beyond-the-border-counts-as-near",
        file="shardcast/nodes/sharing.py",
        old="is_near=lambda ticket: neighbours.site_of(ticket.key, ticket.site) == membership.site,",
        new="is_near=lambda ticket: True,",
        tests=SITES,
    ),
    Fault(
        name="claims-are-not-taken",
        file="shardcast/swarm/handing_server.py",
        old="if claims := found.claims & asked.across:",
        new="if claims := 0:",
        tests=SITES,
    ),
    Fault(
        name="full-node-keeps-the-stranger",
        file="shardcast/swarm/acquaintances.py",
        old="        if replaced is not None:\n",
        new="        if replaced is self:\n",
        tests=["tests/unit/swarm/test_acquaintances.py"],
    ),
    Fault(
        name="request-by-another-node-s-id-counts-for-that-node",
        file="shardcast/protocol/next_range.py",
        old='return f"{node} {proof}" if proof else node',
        new="return node",
        tests=IDS,
    ),
    Fault(
        name="id-is-anybody-s",
        file="shardcast/policy/swarm/member_table.py",
        old="        if not self._frees_node(version, facts, announced=True):\n",
        new="        if self._frees_node(version, facts, announced=True) is None:\n",
        tests=IDS,
    ),
    Fault(
        name="dead-exchange-is-gone-back-to",
        file=EXCHANGE,
        old="return bool(self._servers) and self.failure is None",
        new="return bool(self._servers)",
        tests=["tests/faults/test_exchange_crashes.py"],
    ),
    Fault(
        name="piece-of-a-file-that-changed-goes-whole",
        file="shardcast/swarm/sender.py",
        old="    if not piece.is_unchanged():\n",
        new="    if not piece:\n",
        tests=["tests/unit/swarm/test_sender.py", *FAULTY],
    ),
]
