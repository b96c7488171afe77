"""Pictures of items for a browser: never bytes from outside, only thumbnails made of their pixels."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from moontide.errors import Misconfigured
from serving.http.console_catalog import Catalog

#: Sides a caller may ask for, in pixels.
SIDES: Final = (96, 192)
_KEPT: Final = 512


class Thumbnails:
    """Thumbnails of a catalog's pictures; the last 512 are remembered while the catalog stays as it is. Thread-safe.

    Args:
        catalog: says where a picture lies; local paths are read below its folder alone.
        schemes: object-store schemes that may be read, as ``MOONTIDE_IMAGE_SCHEMES``.
    """

    def __init__(self, catalog: Catalog, schemes: tuple[str, ...] = ()) -> None:
        self._catalog = catalog
        self._schemes = schemes
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[str, int], bytes | None] = OrderedDict()
        self._stamp = catalog.stamp()

    def of(self, item_id: str, side: int) -> bytes | None:
        """A JPEG of at most `side` x `side`; None where there is no picture, or none that may be shown.

        Raises:
            Misconfigured: a catalog that cannot be read, or no decoder is installed.
            Transient: the folder or object store failed.
        """
        key, stamp = (item_id, side), self._catalog.stamp()
        with self._lock:
            if stamp != self._stamp:
                self._made.clear()
                self._stamp = stamp
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        made = self._make(item_id, side)
        with self._lock:
            if stamp == self._stamp:
                self._made[key] = made
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return made

    def _make(self, item_id: str, side: int) -> bytes | None:
        try:
            from encoders.images import ImageLoader, image_root, thumbnail
            from encoders.item import Unencodable
        except ImportError as error:
            raise Misconfigured(f"pictures: expected Pillow, got: {error}; pip install 'moontide[encode]'") from error
        found = self._catalog.picture(item_id)
        if found is None:
            return None
        loader = ImageLoader(image_root(str(self._catalog.path)), self._schemes)
        try:
            return thumbnail(loader.read(found), side)
        except Unencodable:
            return None
