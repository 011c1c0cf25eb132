"""A sharing node exchanges pieces over slow links, and asks its servers for ranges otherwise."""

from __future__ import annotations

from shardcast.policy.swarm.mode import (
    BUSY_LINK,
    BUSY_SHARE,
    FAST_LINK,
    FRUITLESS_SECONDS,
    MEASURED_SECONDS,
    MEETING_SECONDS,
    RETRY_SECONDS,
    TRIAL_SECONDS,
    FetchMode,
    Situation,
)

SLOW = 25e6  # bytes a second


class Download:
    """A download whose mode is looked at ten times a second."""

    def __init__(self, *, exchanges: bool = False) -> None:
        self.mode = FetchMode(0.0, exchanges=exchanges, busy=7.0)
        self._now, self._received, self._busy = 0.0, 0.0, 7.0

    def run(
        self,
        seconds: float,
        rate: float,
        *,
        neighbours: int = 3,
        others: int = 3,
        hands_out: bool = True,
        lacks: bool = True,
        busy: float = 0.0,
    ) -> bool:
        """Let time pass while bytes come at a rate; return whether pieces are exchanged then."""
        for _ in range(round(seconds * 10)):
            self._now += 0.1
            self._received += rate / 10
            self._busy += busy / 10
            received = int(self._received)
            self.mode.update(Situation(self._now, neighbours, others, hands_out, received, lacks, self._busy))
        return self.mode.exchanges


def test_node_with_neighbours_on_a_slow_link_exchanges_pieces() -> None:
    assert Download().run(2.0, SLOW)


def test_node_alone_asks_for_ranges() -> None:
    download = Download()
    assert not download.run(2.0, SLOW, neighbours=0, others=0)
    assert download.run(0.2, SLOW)


def test_node_whose_servers_hand_nothing_out_asks_for_ranges() -> None:
    assert not Download().run(2.0, SLOW, hands_out=False)


def test_fast_link_is_found_out_and_remembered() -> None:
    download = Download(exchanges=True)
    assert not download.run(2 * MEASURED_SECONDS + 0.1, 2 * FAST_LINK)
    assert not download.run(5.0, SLOW)


def test_ranges_are_kept_to_where_the_processor_is_waited_for() -> None:
    download = Download(exchanges=True)
    assert not download.run(MEASURED_SECONDS + 0.1, 1.1 * BUSY_LINK, busy=1.0)
    assert not download.run(TRIAL_SECONDS + MEASURED_SECONDS, 1.5 * BUSY_LINK, busy=1.0)
    assert not download.run(5.0, SLOW)


def test_pieces_are_exchanged_again_where_ranges_bring_less() -> None:
    download = Download(exchanges=True)
    assert not download.run(MEASURED_SECONDS + 0.1, 1.1 * BUSY_LINK, busy=1.0)
    assert download.run(TRIAL_SECONDS + MEASURED_SECONDS, 0.5 * BUSY_LINK, busy=1.0)
    assert download.run(5.0, 1.1 * BUSY_LINK, busy=1.0), "they are tried once"


def test_busy_processor_makes_no_slow_link_fast() -> None:
    assert Download(exchanges=True).run(2.0, SLOW, busy=1.0)


def test_link_that_is_waited_for_is_not_fast() -> None:
    assert Download(exchanges=True).run(2.0, 1.1 * BUSY_LINK, busy=BUSY_SHARE - 0.05)


def test_node_that_knows_of_others_exchanges_pieces_until_it_could_have_met_them() -> None:
    download = Download()
    assert download.run(MEETING_SECONDS - 0.2, SLOW, neighbours=0)
    assert not download.run(0.5, SLOW, neighbours=0)


def test_exchange_without_a_byte_gives_way_to_ranges_and_is_tried_again() -> None:
    download = Download(exchanges=True)
    assert not download.run(FRUITLESS_SECONDS + 0.5, 0.0)
    assert download.run(RETRY_SECONDS + 0.5, SLOW)


def test_exchange_goes_on_while_the_first_shard_is_being_made() -> None:
    download = Download(exchanges=True)
    assert download.run(2 * FRUITLESS_SECONDS, 0.0, lacks=False)
    assert download.run(FRUITLESS_SECONDS - 0.5, 0.0)
