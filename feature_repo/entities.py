"""The two entities; their keys are strings of ``[A-Za-z0-9._:-]{1,64}``."""

from feast import Entity, ValueType

from moontide import names

item = Entity(name=names.ITEM, join_keys=[names.ITEM_ID], value_type=ValueType.STRING)
user = Entity(name=names.USER, join_keys=[names.USER_ID], value_type=ValueType.STRING)
