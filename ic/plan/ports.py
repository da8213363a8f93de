"""Host ports: what the files say, or a planned one, and every conflict that can be known before. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ic import names
from ic.fields import networking
from ic.plan import allot, claims, facts
from ic.plan.ground import replicas

if TYPE_CHECKING:
    from ic.compose import model
    from ic.plan import ground


def give(base: ground.Ground) -> dict[str, tuple[int, ...]]:
    """A host port for every entry of `ports` of every selected instance, by its address."""
    return _Ports(base).give()


class _Ports:
    """One giving out: what is claimed so far, by protocol and number: (host address, instance)."""

    def __init__(self, base: ground.Ground) -> None:
        self.ground = base
        self.claimed: dict[tuple[str, int], list[tuple[str, str]]] = {}
        self.foreign = _foreign_listeners(base.observed, base.project)

    def give(self) -> dict[str, tuple[int, ...]]:
        """First the ports that the files fix, then those that are to be chosen."""
        given: dict[str, dict[int, int]] = {}
        to_choose: list[tuple[model.Service, str, int]] = []
        for name in sorted(self.ground.selected):
            service = self.ground.stack.services[name]
            for replica in replicas(service):
                address = names.address("instance", f"{name}/{replica}")
                given[address] = {}
                for index, port in enumerate(service.networking.ports):
                    if port.published is not None and port.published_end is None:
                        given[address][index] = port.published
                        self._claim(service, address, index, port.published)
                    else:
                        to_choose.append((service, address, index))
        for service, address, index in to_choose:
            port = service.networking.ports[index]
            chosen = self._choose(address, port)
            if chosen is None:
                self.ground.problem(
                    f"cannot publish port {port.target}/{port.protocol} of "
                    f"{names.name_of(address)}: every host port of the range is taken",
                    "services",
                    service.name,
                    "ports",
                    index,
                )
                continue
            given[address][index] = chosen
            self._claim(service, address, index, chosen)
        return {
            address: tuple(found[index] for index in sorted(found))
            for address, found in given.items()
        }

    def _choose(self, address: str, port: networking.Port) -> int | None:
        """The port it had, or the first free one, of the range that the file gives or the kernel's."""
        among = allot.EPHEMERAL
        if port.published is not None and port.published_end is not None:
            among = range(port.published, port.published_end + 1)
        path = ("devices", networking.port_device(port), "listen")
        return allot.host_port(
            f"{self.ground.stack.name}/{address}/{port.protocol}/{port.target}",
            among,
            tuple(claims.port_of(text) for text in self.ground.field(address, path)),
            self._occupied(address, port.protocol, networking.listen_address(port)),
            from_start=port.published is not None,
        )

    def _occupied(self, address: str, protocol: str, host: str) -> frozenset[int]:
        """The host ports that this instance cannot have: of others here, of other projects, of processes."""
        foreign = {
            listener.port
            for listener in self.foreign
            if listener.protocol == protocol and allot.clash(listener.address, host)
        }
        planned = {
            number
            for (other, number), held in self.claimed.items()
            if other == protocol and any(allot.clash(where, host) for where, _ in held)
        }
        live = {
            number
            for other, found in self.ground.observed.live.items()
            if other != address
            for what, where, number in claims.proxies(found.fields)
            if what == protocol and allot.clash(where, host)
        }
        return frozenset(foreign | planned | live)

    def _claim(self, service: model.Service, address: str, index: int, number: int) -> None:
        """Note a port as this instance's; a problem where another one has it."""
        port = service.networking.ports[index]
        host = networking.listen_address(port)
        where = ("services", service.name, "ports", index)
        what = f"port {number}/{port.protocol} for {names.name_of(address)}"
        held = self.claimed.setdefault((port.protocol, number), [])
        for other_host, other in held:
            if allot.clash(host, other_host):
                self.ground.problem(
                    f"cannot publish {what}: {names.name_of(other)} publishes it too", *where
                )
                return
        held.append((host, address))
        for listener in self.foreign:
            taken = listener.protocol == port.protocol and listener.port == number
            if taken and allot.clash(host, listener.address):
                self.ground.problem(f"cannot publish {what}: {listener.owner} has it", *where)
                return


def _foreign_listeners(observed: facts.Observed, project: str) -> list[facts.Listener]:
    """Listeners that are not this stack's own proxies (which show up as processes of the host too)."""
    own = {
        (protocol, number)
        for live in observed.live.values()
        if live.power in {"Running", "Frozen"}
        for protocol, _, number in claims.proxies(live.fields)
    }
    mine = {live.name for live in observed.live.values()}
    return [
        listener
        for listener in observed.facts.listeners
        if not (listener.project == project and listener.instance in mine)
        and (listener.project or (listener.protocol, listener.port) not in own)
    ]
