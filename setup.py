"""The inventories and limits of ``environments/`` travel inside the package: the rehearsal and a wheel's users need them."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pytest_h20", "pytest_h20.*"]), "pytest_h20.environments", "pytest_h20.environments.thresholds"],
    package_dir={
        "pytest_h20.environments": "environments",
        "pytest_h20.environments.thresholds": "environments/thresholds",
    },
    package_data={"": ["py.typed", *(f"**/*.{kind}" for kind in ("json", "jsonl", "yaml", "css", "js", "txt", "xml"))]},
    include_package_data=False,
)
