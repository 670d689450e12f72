"""Whether a Kafka-protocol broker answers: the smallest request of the protocol, asked over a bare socket."""

import socket
import struct

API_VERSIONS = 18
CORRELATION = 1
CLIENT = b"pointguard"


def answers(address: str, seconds: float = 2.0) -> bool:
    """Whether the broker at `host:port` answers an ApiVersions request (version 0) without an error."""
    host, _, port = address.rpartition(":")
    body = struct.pack(">hhih", API_VERSIONS, 0, CORRELATION, len(CLIENT)) + CLIENT
    try:
        with socket.create_connection((host, int(port)), timeout=seconds) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            with connection.makefile("rb") as reply:
                head = reply.read(10)  # length, correlation, error
    except OSError:
        return False
    return head[4:] == struct.pack(">ih", CORRELATION, 0)
