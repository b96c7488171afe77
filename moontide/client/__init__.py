"""What a ranking service needs to ask a moontide server, over HTTP or Arrow Flight: no Feast, no Spark, no torch."""

from moontide.client.aio import AsyncClient
from moontide.client.blocking import Client
from moontide.client.calls import Patience
from moontide.client.wire import Unavailable

__all__ = ["AsyncClient", "Client", "Patience", "Unavailable"]
