"""The list of packages, which pyproject.toml cannot find by itself: some folders move into `core`."""

from setuptools import find_packages, setup

MOVED = ["core.data", "core.docs", "core.migrations", "echo_markets"]  # `package-dir` says from where

setup(packages=find_packages(include=["core*", "dashboard*", "exporter*"], exclude=["core.entry"]) + MOVED)
