"""The feature services: what one ranking model reads, pinned to the space it was trained on."""

from feast import FeatureService
from sources import live
from views import by_name

from moontide import names
from moontide.live import Service


def feature_service(service: Service) -> FeatureService:
    """Item vector, stored tiers and item fields of one service."""
    projections = [by_name[service.space.view][["embedding"]], by_name[service.simtier.view][["counts", "missing"]]]
    if service.item_fields:
        projections.append(by_name[names.ITEM_FEATURES][list(service.item_fields)])
    tags = {"space": service.space.id, "simtier": service.simtier.spec_id}
    return FeatureService(name=service.name, features=projections, tags=tags)


# Feast collects what is a module attribute.
globals().update({service.name: feature_service(service) for service in live.services})
