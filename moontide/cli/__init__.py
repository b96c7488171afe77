"""The command ``moontide``: the composition root for people. Nothing imports it.

Imports of stores, encoders, serving and Feast happen inside the functions that need them, so that ``moontide doctor`` can
say what is not installed instead of failing on it.
"""
