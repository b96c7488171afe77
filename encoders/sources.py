"""Licence and attribution of the public data sets, by folder name; `dataset.json` in a folder takes precedence."""

from __future__ import annotations

from typing import Final

SOURCES: Final[dict[str, dict[str, str]]] = {
    "clothing": {
        "title": "Clothing dataset (full, high resolution)",
        "author": "Alexey Grigorev and contributors",
        "url": "https://github.com/alexeygrigorev/clothing-dataset",
        "revision": "7ed86a9",
        "licence": "CC0-1.0",
    },
    "luma": {
        "title": "Magento 2 sample data (Luma)",
        "author": "Magento, Inc. and contributors",
        "url": "https://github.com/magento/magento2-sample-data",
        "revision": "5380756",
        "licence": "OSL-3.0 OR AFL-3.0",
    },
    "online_retail": {
        "title": "Online Retail",
        "author": "Daqing Chen, UCI Machine Learning Repository, doi:10.24432/C5BW33",
        "url": "https://archive.ics.uci.edu/dataset/352/online+retail",
        "revision": "via databricks/Spark-The-Definitive-Guide 4ba5601",
        "licence": "CC-BY-4.0",
    },
}
