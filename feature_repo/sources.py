"""Where each view's values come from: its offline Parquet table, and pushes.

`site` is what this site declares: its settings and live spaces.
"""

from pathlib import Path

from feast import FileSource, PushSource
from feast.data_format import ParquetFormat

from moontide import names
from moontide.live import load_spaces
from moontide.settings import load_settings
from moontide.stores.feast_views import spaces_file
from moontide.stores.offline import OfflineTables
from moontide.views import ViewSpec

settings = load_settings()
live = load_spaces(spaces_file(settings, Path(__file__).parent))
live.require_length(settings.sequence_length)
tables = OfflineTables(settings.offline_root)


def source(spec: ViewSpec) -> PushSource:
    """The push source ``<view>_push`` over the view's offline table, which exists (empty) from here on."""
    table = FileSource(
        name=f"{spec.name}_table",
        path=tables.ensure(spec),
        file_format=ParquetFormat(),
        timestamp_field=names.EVENT_TIMESTAMP,
        created_timestamp_column=spec.created,
    )
    return PushSource(name=f"{spec.name}_push", batch_source=table)
