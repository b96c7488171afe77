"""What a user side that was read ahead is good for."""

from __future__ import annotations

from dataclasses import dataclass

from moontide.live import Service


@dataclass(frozen=True, slots=True)
class PrefetchKey:
    """One request of one user to one service, with the spec and space that the service has now."""

    request_id: str
    user_id: str
    service: Service
