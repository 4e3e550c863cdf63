"""The packages: ``solo``, and the recipes of ``scripts/`` as ``solo.recipes``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["solo*"]), "solo.recipes"],
    package_dir={"solo.recipes": "scripts"},
    package_data={
        "solo": ["py.typed"],
        "solo.data": ["*.txt"],
        "solo.report": ["page/*"],
        "solo.recipes": ["**/*.yaml"],
    },
)
