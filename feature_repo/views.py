"""The feature views, made from `moontide.views`: one per live space, one per SimTier spec, and the shared ones."""

from entities import item, user
from feast import FeatureView, Field
from feast.types import String
from sources import live, source

from moontide import names
from moontide.stores.feast_values import codec_of
from moontide.views import ViewSpec

_ENTITIES = {names.ITEM_ID: item, names.USER_ID: user}


def feature_view(spec: ViewSpec) -> FeatureView:
    """The Feast view of a moontide view."""
    vector = {"vector_index": True, "vector_length": spec.space.dim, "vector_search_metric": "COSINE"} if spec.space else {}
    keys = [Field(name=key, dtype=String) for key in spec.entities]
    features = [
        Field(name=f.name, dtype=codec_of(f.type).feast, **(vector if f.name == "embedding" else {})) for f in spec.fields
    ]
    return FeatureView(
        name=spec.name,
        entities=[_ENTITIES[key] for key in spec.entities],
        schema=[*keys, *features],
        source=source(spec),
        ttl=spec.ttl,
        online=True,
        tags={"kind": str(spec.kind)},
    )


by_name = {spec.name: feature_view(spec) for spec in live.views()}

# Feast collects what is a module attribute.
globals().update(by_name)
