"""What pyproject.toml cannot say: a checkout's configs/ are installed as ldm/configs."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ldm*", "autoencoder*", "pipelines*"]), "ldm.configs"],
    package_dir={"ldm.configs": "configs"},
)
