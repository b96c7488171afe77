"""A process that writes to the online store until it is killed: ``python writer.py SETTINGS_JSON FIRST_BATCH``.

Prints ``begun N`` before and ``done N`` after each batch; N is the version of all its items.
"""

import json
import sys

from moontide.settings import Settings
from moontide.stores import online_store
from tests.faults.serving import values


def main():
    settings, number = Settings(**json.loads(sys.argv[1])), int(sys.argv[2])
    store = online_store(settings)
    while True:
        print(f"begun {number}", flush=True)
        values.write(store, values.batch_of(number), number)
        print(f"done {number}", flush=True)
        number += 1


if __name__ == "__main__":
    main()
