"""Content in, arrays out: items (image, title, description, attributes) to vectors of one embedding space.

The runtime imports no torch; training lives in `encoders.train`.
"""

from encoders.images import ImageLoader
from encoders.item import Item, Reason, Reject, Unencodable, hash_content
from encoders.runtime import Encoder, Prepared

__all__ = ["Encoder", "ImageLoader", "Item", "Prepared", "Reason", "Reject", "Unencodable", "hash_content"]
