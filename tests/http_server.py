"""The server's app, answering on a real port from a thread of the test."""

import contextlib
import threading
import time

import uvicorn

from moontide.settings import Settings
from serving.http.app import Parts, create_app
from serving.http.tokens import Tokens


@contextlib.contextmanager
def answering(app, *, tls=None):
    """URL of `app`, on a free port of the loopback interface; `tls` is a folder with ``cert.pem`` and ``key.pem``."""
    files = {"ssl_certfile": tls / "cert.pem", "ssl_keyfile": tls / "key.pem"} if tls else {}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None, **files))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


def running(client, live, *, tokens=None, tls=None, **settings):
    """`answering` with the app over a `RankingClient`; `settings` without their ``serving_``."""
    limits = Settings(**{f"serving_{name}": value for name, value in settings.items()})
    return answering(create_app(Parts(client, live, limits, tokens or Tokens())), tls=tls)
