"""Batch programs, one file each, run by ``spark-submit --py-files dist/moontide.zip jobs/x.py`` or ``python -m jobs.x``.

A file without a leading underscore is a program with ``main(argv) -> int``; the others are what the programs share. Functions
that run on executors live in importable modules, never in a program's ``__main__``.
"""
