"""For tools that still call `python setup.py`; everything stands in pyproject.toml."""

from setuptools import setup

setup()
