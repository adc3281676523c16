"""Tells where a request came from, and under which name the client reached the facade.

X-Forwarded-* headers are anybody's to write. They are believed only from a configured proxy, and only their
right-most part, which that proxy wrote.
"""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

_MAPPED = "::ffff:"


class AddressBook:
    """Knows the trusted proxies."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        self._trusted = [ip_network(network, strict=False) for network in trusted_proxies]

    def client_ip(self, peer: str, headers: Mapping[str, str]) -> str:
        """Give the client's address in text form: the peer's, or the last one no trusted proxy has."""
        if not self._trusted:
            return peer if not peer.startswith(_MAPPED) else peer[len(_MAPPED) :]
        client = _parsed(peer)
        if client is None:
            return peer
        for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
            if not self._is_trusted(client):
                break
            before = _parsed(hop)
            if before is None:
                break
            client = before
        return str(client)

    def own_origin(self, peer: str, scheme: str, headers: Mapping[str, str]) -> str:
        """Give scheme://host[:port] the client used for the facade, as a browser would write it."""
        host = headers.get("host", "")
        if self._trusted and (address := _parsed(peer)) is not None and self._is_trusted(address):
            scheme = _last(headers.get("x-forwarded-proto", "")) or scheme
            host = _last(headers.get("x-forwarded-host", "")) or host
        scheme, host = scheme.lower(), host.lower()
        if scheme == "http":
            host = host.removesuffix(":80")
        elif scheme == "https":
            host = host.removesuffix(":443")
        return f"{scheme}://{host}"

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted if network.version == address.version)


def is_plain_localhost(origin: str) -> bool:
    """Tell whether an own origin is http on this machine's own name."""
    scheme, _, host = origin.partition("://")
    name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
    return scheme == "http" and (name in {"localhost", "127.0.0.1", "[::1]"} or name.endswith(".localhost"))


def _last(listed: str) -> str:
    return listed.rpartition(",")[2].strip()


def _parsed(text: str) -> Address | None:
    """Read an address with or without port, brackets, quotes and zone; None for anything else."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
