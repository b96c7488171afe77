"""Feast's universal tests on our plug-ins: named by ``FULL_REPO_CONFIGS_MODULE``, read by Feast's own conftest.

Feast marks most tests for one store by name (``only=["redis"]``); what they check holds for any key-value store, so the plug-in
under test answers to the names in `STANDS_IN_FOR`. ``MOONTIDE_FEAST_SUITE`` chooses it: ``lmdb`` or ``redis``.
"""

import os
import tempfile

from tests.universal.feature_repos.universal.data_sources.file import FileDataSourceCreator
from tests.universal.feature_repos.universal.online_store_creator import OnlineStoreCreator

STANDS_IN_FOR = ("redis", "sqlite", "mongodb")


class LmdbCreator(OnlineStoreCreator):
    def create_online_store(self):
        self.folder = tempfile.TemporaryDirectory(prefix="moontide-feast-")
        return {
            "type": "moontide.stores.feast_plugin.LmdbOnlineStore",
            "home": self.folder.name,
            "delete_dropped_views": True,
        }

    def teardown(self):
        self.folder.cleanup()


class RedisCreator(OnlineStoreCreator):
    def create_online_store(self):
        return {
            "type": "moontide.stores.feast_plugin.RedisOnlineStore",
            "url": os.environ["MOONTIDE_REDIS_URL"],
            "delete_dropped_views": True,
        }

    def teardown(self):
        pass


class OneStore(dict):
    """One store under several names, listed once."""

    def get(self, name, default=None):
        return self["store"] if name in STANDS_IN_FOR else default

    def __contains__(self, name):
        return name in STANDS_IN_FOR


_CREATORS = {"lmdb": LmdbCreator, "redis": RedisCreator}
AVAILABLE_ONLINE_STORES = OneStore(store=(None, _CREATORS[os.environ["MOONTIDE_FEAST_SUITE"]]))
AVAILABLE_OFFLINE_STORES = [("local", FileDataSourceCreator)]
