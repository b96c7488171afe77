"""The nearline consumer: item and behaviour events from Kafka into the online store, the index and the offline tables.

Threads of one process: `loop` polls, commits and answers rebalances; `worker` turns messages into writes; `settler` brings
the followers of the online record (index, change stream) up to date and makes checkpoints durable. The encoder runs in a child
process of its own, which may die.
"""
