"""The roster: which node hosts which client, and each client's tier.

Flower's node ids are random; everything that repeats from run to run uses the client number.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from logging import WARNING

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid

from fl_mlmc.run.protocol import CONFIG, ROSTER_ACTION, ProtocolError, RosterEntry, code_stamp, reason_of
from fl_mlmc.submodels.tier import Tier, assign_tiers, tier_named

from .device_grid import DeviceGrid


class RosterError(RuntimeError):
    """The federation cannot give the clients that the run config asks for."""


@dataclass(frozen=True)
class Seat:
    """Where a client sits: Flower's handle of its node, the node's lasting name, and the client's tier."""

    node_id: int
    node: str
    tier: Tier


OnRefused = Callable[[str, str], None]


class Roster:
    """Clients 0 to num_clients − 1 of a run and the nodes that host them.

    Parameters
    ----------
    tiers : Sequence[Tier]
        The run's tiers; a node may declare one of them, by name.
    num_clients : int
        Clients of the run, all rounds together.
    seed : int
        Of the run: it decides the tiers of clients whose nodes declare none.
    assignment : str (default: "shares")
        How it decides: as `assign_tiers` reads it.
    data : str (default: "")
        Told to nodes that measure their tier: where the data lies, for those on the server's disk.
    meta : str (default: "")
        Told to them likewise: what the data set is, as JSON, for those with examples of their own.
    on_refused : Callable[[str, str], None]
        Hears the name and the reason of each node that gets no seat.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        num_clients: int,
        seed: int,
        assignment: str = "shares",
        data: str = "",
        meta: str = "",
        on_refused: OnRefused = lambda node, reason: None,
    ) -> None:
        self._tiers, self._num_clients, self._seed = tuple(tiers), num_clients, seed
        self._assignment, self._data, self._meta = assignment, data, meta
        self._on_refused = on_refused
        self._entries: dict[int, RosterEntry] = {}
        self._refused: dict[int, str] = {}
        self._silent: dict[int, tuple[float, float]] = {}  # when to ask again, and the pause after that
        self._hosts: dict[int, int] = {}
        self._alike: range | None = None

    @property
    def clients(self) -> Sequence[int]:
        """The numbers of all clients that a node hosts now, ascending."""
        return sorted(self._hosts) if self._alike is None else range(self._num_clients)

    @property
    def is_empty(self) -> bool:
        """Whether no node was ever found."""
        return not self.clients

    def seat(self, client: int, server_round: int = 1) -> Seat:
        """Where `client` sits in that round."""
        if self._alike is not None:
            partition = client % len(self._alike)
            return Seat(self._alike[partition], f"partition-{partition}", self._assigned(client, server_round))
        node_id = self._hosts[client]
        entry = self._entries[node_id]
        tier = tier_named(self._tiers, entry.tier) if entry.tier else self._assigned(client, server_round)
        return Seat(node_id, entry.node, tier)

    def wait(self, grid: Grid, least: int | None = None, seconds: float = 60.0) -> None:
        """Ask nodes who they are until every client has one, or until no other answered for `seconds`.

        RosterError if fewer than `least` clients have one by then; `least` is all clients, unless given.
        """
        most_known, heard = -1, 0.0
        least = self._num_clients if least is None else least
        while True:
            self.refresh(grid, seconds)
            found = len(self.clients)
            if found == self._num_clients:
                return
            num_known = len(self._entries) + len(self._refused)
            if num_known > most_known:  # a slow machine starts its nodes one by one; one that comes and goes is not new
                most_known, heard = num_known, time.monotonic()
            if time.monotonic() > heard + seconds:
                if found >= least:
                    log(WARNING, "%d of %d clients have a node, going on with these", found, self._num_clients)
                    return
                refused = "".join(f"; node {node} was refused: {reason}" for node, reason in self._refused.items())
                raise RosterError(
                    f"{found} of {self._num_clients} clients have a node, and none came in {seconds:g} s{refused}. "
                    f"Give the federation a node for each client, or set num-clients to what it has"
                )
            time.sleep(0.2)

    def refresh(self, grid: Grid, seconds: float = 60.0) -> None:
        """Ask nodes that are new, and wait so long for their answers; forget nodes that are gone."""
        nodes = grid.get_node_ids()
        # A range is an engine's promise: simulated nodes of this very code, node i of n hosts partition i of n.
        self._alike = nodes if isinstance(nodes, range) else None
        if self._alike is not None:
            return
        present = set(nodes)
        if gone := (self._entries.keys() | self._refused.keys()) - present:
            self._entries = {node: entry for node, entry in self._entries.items() if node not in gone}
            self._refused = {}  # a seat may have become free
            self._hosts = {client: node for client, node in self._hosts.items() if node not in gone}
        known = self._entries.keys() | self._refused.keys()
        now = time.monotonic()
        new = sorted(node for node in present - known if self._silent.get(node, (now, 0.0))[0] <= now)
        if new:
            names = grid.names() if isinstance(grid, DeviceGrid) else {}
            replies = grid.send_and_receive([self._query(node) for node in new], timeout=max(seconds, 1.0))
            for reply in sorted(replies, key=lambda reply: reply.metadata.src_node_id):
                self._add(reply, names.get(reply.metadata.src_node_id, ""))
            self._note_silence(new)

    def _note_silence(self, asked: Iterable[int]) -> None:
        """Whoever did not answer is asked again, less and less often: a round must not wait for it each time."""
        for node in asked:
            if node in self._entries or node in self._refused:
                self._silent.pop(node, None)
            else:
                pause = self._silent.get(node, (0.0, 5.0))[1]
                self._silent[node] = (time.monotonic() + pause, min(4 * pause, 3600.0))

    def _add(self, reply: Message, name: str) -> None:
        node_id = reply.metadata.src_node_id
        if reply.has_error():
            return  # it may answer the next time
        try:
            if (said := reply.content.config_records.get(CONFIG)) is None:
                raise ProtocolError(f"its answer has no config record {CONFIG!r}")
            entry = RosterEntry.from_config(said)
            if entry.code_stamp != code_stamp():
                raise ProtocolError(f"it runs code {entry.code_stamp!r}, the server runs {code_stamp()}")
            if entry.tier:
                tier_named(self._tiers, entry.tier)
            if name and (entry.stride or name != f"client-{entry.first}"):
                raise ProtocolError(f"it hosts client {entry.first}, and was registered as {name!r}")
            if (clash := next((client for client in self._hosted(entry) if client in self._hosts), None)) is not None:
                raise ProtocolError(f"client {clash} has a node already")
        except Exception as error:  # an answer is of somebody else's making, too
            self._refused[node_id] = reason_of(error)
            log(WARNING, "node %s is left out: %s", name or node_id, self._refused[node_id])
            self._on_refused(name or str(node_id), self._refused[node_id])
        else:
            self._entries[node_id] = entry
            self._hosts.update(dict.fromkeys(self._hosted(entry), node_id))

    def _hosted(self, entry: RosterEntry) -> Iterable[int]:
        if entry.stride:
            return range(entry.first, self._num_clients, entry.stride)
        return [entry.first] if 0 <= entry.first < self._num_clients else []

    def _assigned(self, client: int, server_round: int) -> Tier:
        when = server_round if self._assignment == "redrawn" else 0
        return self._tiers[assign_tiers(self._tiers, self._num_clients, self._seed, self._assignment, when)[client]]

    def _query(self, node_id: int) -> Message:
        content = RecordDict({CONFIG: ConfigRecord({"data": self._data, "data-meta": self._meta})})
        return Message(content, dst_node_id=node_id, message_type=f"{MessageType.QUERY}.{ROSTER_ACTION}")
