"""A small site in memory and the server's app over it, for the tests of the server and of what is built on it."""

from starlette.testclient import TestClient

from moontide.live import load_spaces
from moontide.settings import Settings
from moontide.stores import online_store
from serving import RankingClient
from serving.http.app import Parts, create_app
from serving.http.tokens import Tokens
from tests.served_rows import TOML, fill


def opened(folder, toml=TOML):
    """A `RankingClient` over the memory store, filled, and its live spaces."""
    (folder / "spaces.toml").write_text(toml)
    live = load_spaces(folder / "spaces.toml")
    store = online_store(Settings(home=folder, online="memory", project=folder.name.replace("-", "_").lower()[:60]))
    fill(store, live)
    return RankingClient(store, live), live


def web(client, live, *, tokens=None, wrap=None, **settings):
    """A test client of the app; `settings` without their ``serving_``."""
    limits = Settings(**{f"serving_{name}": value for name, value in settings.items()})
    app = create_app(Parts(client, live, limits, tokens or Tokens()))
    return TestClient(wrap(app) if wrap else app, raise_server_exceptions=True)
